-- The nodes' heartbeat: who is there, and whether Redis still has what it had.
local key, node = KEYS[1], ARGV[1]
local known, joined = tonumber(ARGV[2]), tonumber(ARGV[3])
local freeze, grace, leaves = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local members, starved = tonumber(ARGV[7]), 8 + tonumber(ARGV[7])
local function text(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '-'

local epoch = tonumber(redis.call('HGET', key, 'e') or '0')
if epoch == 0 or epoch < known or redis.call('HGET', key, 'run') ~= run then
  -- Everything is lost, or this is another server, or an earlier state of it.
  epoch = math.max(epoch + 1, known + 1, now)
  redis.call('HSET', key, 'e', text(epoch), 'run', run, 'since', text(now))
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'm:' then redis.call('HSET', key, 'x:' .. string.sub(field, 3), '1') end
  end
end
local since = tonumber(redis.call('HGET', key, 'since'))
if known > 0 and known < epoch and now < since + grace then
  -- Whoever was there before must have said what it holds before anybody is given more.
  for i = 8, 7 + members do
    if redis.call('HGET', key, 'j:' .. ARGV[i]) ~= text(epoch) then
      redis.call('HSET', key, 'x:' .. ARGV[i], '1')
    end
  end
end
if leaves then
  redis.call('HDEL', key, 'm:' .. node, 'j:' .. node, 'x:' .. node)
else
  redis.call('HSET', key, 'm:' .. node, text(now), 'j:' .. node, text(joined))
  if joined == epoch then redis.call('HDEL', key, 'x:' .. node) end
end
for i = starved, #ARGV do redis.call('HSET', key, 'w:' .. ARGV[i], text(now)) end

local all, names, wanted, missing = redis.call('HGETALL', key), {}, {}, false
for i = 1, #all, 2 do
  local field, kind, name = all[i], string.sub(all[i], 1, 2), string.sub(all[i], 3)
  if kind == 'm:' then
    if now - tonumber(all[i + 1]) > grace then
      redis.call('HDEL', key, field, 'j:' .. name)
    else
      names[#names + 1] = name
    end
  elseif kind == 'x:' then
    if now < since + grace then missing = true else redis.call('HDEL', key, field) end
  elseif kind == 'w:' then
    if now - tonumber(all[i + 1]) > 3000 then redis.call('HDEL', key, field) else wanted[#wanted + 1] = name end
  end
end
local frozen = missing or now < since + freeze
return {text(epoch), frozen and '1' or '0', names, wanted}
