// What programs in the sandbox see of us. Called with the host's functions, which nothing else
// can reach; gives back what shows their last value, and what they throw.
(host) => {
  const json = JSON.stringify;
  const show = (value) => {
    if (typeof value === "string") return value;
    if (typeof value === "function") return `[function ${value.name}]`;
    if (value instanceof Error) return value.stack ? `${value}\n${value.stack}`.trimEnd() : String(value);
    if (typeof value !== "object" || value === null) {
      return typeof value === "bigint" ? `${value}n` : String(value);
    }
    const above = [];
    try {
      return json(value, function (key, part) {
        while (above.length > 0 && above[above.length - 1] !== this) above.pop();
        if (typeof part === "bigint") return `${part}n`;
        if (part instanceof Map) part = Object.fromEntries(part);
        if (part instanceof Set || ArrayBuffer.isView(part)) part = Array.from(part);
        if (typeof part === "object" && part !== null) {
          if (above.includes(part)) return "[circular]";
          above.push(part);
        }
        return part;
      });
    } catch (error) {
      return String(value);
    }
  };
  const line = (toStderr) => (...values) => host.write(toStderr, values.map(show).join(" ") + "\n");
  const [out, err] = [line(false), line(true)];
  globalThis.console = { log: out, info: out, debug: out, warn: err, error: err };
  globalThis.print = out;
  globalThis.files = {
    read: (name) => host.readText(String(name)),
    bytes: (name) => host.readBytes(String(name)),
    list: () => host.list(),
    write: (name, content) => {
      const isBytes = content instanceof Uint8Array;
      host.writeText(String(name), isBytes ? "" : String(content));
      for (let at = 0; isBytes && at < content.length; at += 65536) {
        host.append(String(name), Array.from(content.subarray(at, at + 65536)));
      }
    },
  };
  return {
    value: (value) => {
      if (value !== undefined) out(value);
    },
    error: (thrown) => (thrown instanceof Error ? show(thrown) : `thrown: ${show(thrown)}`),
  };
}
