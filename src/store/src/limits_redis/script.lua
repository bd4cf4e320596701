-- The counters that several nodes share: one call of a node, about any number of counters.
--
-- A counter is a hash with one record for each node, and only that node writes it: what it used, by
-- ticks of its own clock, and what it holds as a lease. All values are absolute, so that a report
-- may come twice; `seq` keeps one that comes late from undoing a newer one.
--
-- KEYS: the nodes, the wanted counters, then the counters.
-- ARGV: 1 the time in ms ('' for the server's own), 2 the node, 3 the era it knows, 4 the server's
-- run id, 5 how many nodes it knew, 6 'register', 'ready' or 'leave', 7 its own time in ms, 8 how
-- far its clock is behind ours at most ('' if not known), 9 wanted since, 10 which of its calls it is;
-- then nine for each counter.
local WINDOW, TICK = 60000, 250
-- After how long without a word a node is silent, and after how long it is forgotten.
local SILENT, GONE = 3000, 300000
-- How long a new era waits for nodes that do not come.
local OPEN_AFTER = 10000
-- What the time may jump before we think that somebody has set the clock.
local JUMP = 30000
local SLOTS, SLOT = 13, 5000

local function int(number) return string.format('%.0f', number) end

local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local me, verb, mine, seq = ARGV[2], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[10])

local state, others = {}, {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  local id = string.match(flat[i], '^n:(.*)$')
  if id then
    local seen, era, offset = string.match(flat[i + 1], '^(%S+) (%S+) (%S+)$')
    others[id] = { seen = tonumber(seen), era = era, offset = tonumber(offset) }
  else
    state[flat[i]] = flat[i + 1]
  end
end

if verb == 'leave' then
  redis.call('HDEL', KEYS[1], 'n:' .. me)
end

-- A clock that was set moves what was counted along with it: nothing is forgotten, and nothing
-- counts for longer than a window more.
local jump = now - tonumber(state.seen or now)
if jump < -2000 or jump > JUMP then
  for id, node in pairs(others) do
    node.seen, node.offset = node.seen + jump, node.offset + jump
    redis.call('HSET', KEYS[1], 'n:' .. id, int(node.seen) .. ' ' .. node.era .. ' ' .. int(node.offset))
  end
  state.at = int(tonumber(state.at or now) + jump)
  redis.call('HSET', KEYS[1], 'at', state.at)
end

-- A server that was emptied or started again may know too little: a new era begins, in which
-- nothing is granted before the nodes have said what they used.
if not state.era or state.run ~= ARGV[4] then
  state = { era = int(now) .. '-' .. me, at = int(now), expect = '1' }
  redis.call('HDEL', KEYS[1], 'open')
  redis.call('HSET', KEYS[1], 'era', state.era, 'run', ARGV[4], 'at', state.at)
end
local era = state.era
local known = ARGV[3] == era
local is_ready = known and verb == 'ready'

local offset = now - mine + 1
if ARGV[8] ~= '' then
  local given = tonumber(ARGV[8])
  -- The smallest difference seen is nearest to the truth, unless the clock was set.
  if offset < given + 2000 and offset > given - 2000 then offset = math.min(offset, given) end
end

local ids, live, silent, ready = { me }, 1, {}, is_ready and 1 or 0
local silents = 0
for id, node in pairs(others) do
  if id ~= me then
    local age = now - node.seen
    if age > GONE then
      redis.call('HDEL', KEYS[1], 'n:' .. id)
    else
      ids[#ids + 1] = id
      if age > SILENT then
        silent[id], silents = true, silents + 1
      else
        live = live + 1
      end
      if node.era == era then ready = ready + 1 end
    end
  end
end
table.sort(ids)
local rank = 0
for i, id in ipairs(ids) do if id == me then rank = i - 1 end end

local expect = math.max(tonumber(state.expect or 1), tonumber(ARGV[5]))
if state.open ~= era and (ready >= expect or now - tonumber(state.at) > OPEN_AFTER) then
  state.open = era
  redis.call('HSET', KEYS[1], 'open', era)
end
redis.call('HSET', KEYS[1], 'seen', int(now), 'expect', state.open == era and '1' or int(expect))
if verb ~= 'leave' then
  others[me] = { offset = offset }
  redis.call('HSET', KEYS[1], 'n:' .. me, int(now) .. ' ' .. (is_ready and era or '-') .. ' ' .. int(offset))
end
local is_open = state.open == era

-- One counter. Answers 0 for a report that came too late, 1 for done, 2 for refused, 3 for "not
-- now"; what was granted; when it would fit, in ms, or -1; what frees itself in which 5 seconds.
local function count(key, at)
  local is_rate, limit = ARGV[at] == 'rate', tonumber(ARGV[at + 1])
  local need, least = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local plenty, soon = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local keep, life, report = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]), ARGV[at + 8]

  local ends, slots, counted, held, leased = {}, {}, 0, 0, 0
  for i = 1, SLOTS do slots[i] = 0 end
  local function add(amount, until_)
    counted = counted + amount
    local left = until_ - now
    local slot = math.min(SLOTS, math.floor(left / SLOT) + 1)
    slots[slot] = slots[slot] + amount
    local tick = math.floor(left / TICK)
    ends[tick] = (ends[tick] or 0) + amount
  end

  local own
  local records = redis.call('HGETALL', key)
  for i = 1, #records, 2 do
    local id, record = records[i], cmsgpack.unpack(records[i + 1])
    if id == me then
      own = record
    else
      local behind = others[id] and others[id].offset or record[1]
      local before, last = counted, record[4] + behind
      if record[3] > 0 and is_rate and last + WINDOW > now then
        if last > now then leased = leased + record[3] end
        add(record[3], last + WINDOW + TICK)
      elseif record[3] > 0 and not is_rate and last >= now then
        add(record[3], last)
      end
      for t = 5, #record, 2 do
        local until_ = (record[t] + 1) * TICK + WINDOW + behind
        if until_ > now then add(record[t + 1], until_) end
      end
      local of_it = counted - before
      if of_it == 0 then
        redis.call('HDEL', key, id)
      end
      if silent[id] and is_rate then held = held + math.floor(math.max(0, limit - of_it) / #ids) - math.floor(limit / #ids) end
    end
  end
  -- A node that cannot reach us goes on with its share, so that is kept for it. Not so with places:
  -- those of a node that was killed must not be missed for long.
  if is_rate then held = held + silents * math.floor(limit / #ids) end

  if own and seq <= own[2] then
    return { 0, 0, -1 }
  end
  local used, ticks = {}, {}
  if own then
    for t = 5, #own, 2 do used[own[t]] = own[t + 1] end
  end
  for tick, amount in string.gmatch(report, '(%d+) (%d+)') do used[tonumber(tick)] = tonumber(amount) end
  for tick, amount in pairs(used) do
    local until_ = (tick + 1) * TICK + WINDOW + offset
    if amount > 0 and until_ > now then
      add(amount, until_)
      ticks[#ticks + 1] = tick
      ticks[#ticks + 1] = amount
    end
  end

  local status, granted, fits = 1, 0, -1
  local free = limit - counted - keep - held
  if not (is_open and is_ready) then
    status = 3
  elseif need > 0 and free < least then
    status = 2
    local gained = free
    -- What others hold they may give back any time.
    for tick = 0, free + leased >= least and -1 or 2 * WINDOW / TICK do
      gained = gained + (ends[tick] or 0)
      if ends[tick] and gained >= least then fits = (tick + 1) * TICK; break end
    end
    redis.call('ZADD', KEYS[2], int(now), key)
    redis.call('PEXPIRE', KEYS[2], 10000)
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now - 5000))
  elseif free > 0 then
    local spread = math.floor(free / (#ids + 1))
    granted = math.min(free, math.max(need, math.min(plenty, spread), math.min(soon, math.floor(free / 2))))
  end
  local lease = keep + granted
  if lease > 0 then add(lease, mine + life + offset + (is_rate and WINDOW + TICK or 0)) end
  if lease == 0 and #ticks == 0 then
    redis.call('HDEL', key, me)
  else
    local record = { offset, seq, lease, mine + life }
    for _, value in ipairs(ticks) do record[#record + 1] = value end
    redis.call('HSET', key, me, cmsgpack.pack(record))
    redis.call('PEXPIRE', key, int(life + WINDOW + 5000))
  end
  local answer = { status, granted, fits }
  for i = 1, SLOTS do answer[3 + i] = slots[i] end
  return answer
end

local answers = {}
if known then
  for i = 3, #KEYS do answers[i - 2] = count(KEYS[i], 11 + (i - 3) * 9) end
end
local wanted = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[9], '+inf', 'LIMIT', 0, 200)
return { era, int(now), live, #ids, rank, is_open and 1 or 0, int(offset), wanted, answers }
