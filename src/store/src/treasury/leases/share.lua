-- One holder's claim on one budget. KEYS[1]: the budget in one of its periods. All numbers are whole
-- and below 2^53, and are written by %.0f: a number turned into text by itself may read 1e+15 or -0.
local key = KEYS[1]
local epoch, holder, number = tonumber(ARGV[1]), 'h:' .. ARGV[2], tonumber(ARGV[3])
local limit, keep, spent, seq = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local least, most, cap, parts = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local ttl, base, fold = ARGV[12], ARGV[13], ARGV[14] == '1'
local function text(amount) return string.format('%.0f', amount) end

local at = tonumber(redis.call('HGET', key, 'e') or '0')
if at > epoch then return {'epoch'} end
if at < epoch then
  if base == '' then return {'new'} end
  -- What others have claimed before stays claimed until they say better.
  redis.call('HSET', key, 'e', text(epoch), 'b', base)
end

local node = string.match(holder, '^(.*:)[^:]*$')
local all, claims, spents, last, others = redis.call('HGETALL', key), 0, 0, 0, {}
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  if field == 'b' then
    base = tonumber(value)
  elseif field == holder then
    last = tonumber(string.match(value, '(%d+)$'))
  elseif string.sub(field, 1, 2) == 'h:' then
    local claimed, said = string.match(value, '^(%d+) (%d+) ')
    claims, spents = claims + tonumber(claimed), spents + tonumber(said)
    if string.sub(field, 1, #node) == node then
      others[#others + 1] = string.sub(field, 3)
      others[#others + 1] = value
    end
  end
end
if number <= last then return {'late'} end

local free = math.max(limit - base - claims - keep, 0)
local grant = 0
if free >= least then
  grant = math.min(math.max(most, math.min(math.floor(free / parts), cap)), free)
end
if fold then
  base, keep, spent = base + spent, 0, 0
  redis.call('HSET', key, 'b', text(base))
end
local value = text(keep + grant) .. ' ' .. text(spent) .. ' ' .. seq .. ' ' .. text(number)
redis.call('HSET', key, holder, value)
redis.call('PEXPIRE', key, ttl)
local answer = {'ok', text(keep + grant), text(free - grant), text(base + claims), text(base + spents)}
for i = 1, #others do answer[#answer + 1] = others[i] end
return answer
