-- Replaces the claim of a holder that is gone by what it has spent, if the claim is still what the
-- caller saw.
local key, field = KEYS[1], 'h:' .. ARGV[1]
if redis.call('HGET', key, field) ~= ARGV[2] then return 0 end
local base = tonumber(redis.call('HGET', key, 'b') or '0')
redis.call('HSET', key, 'b', string.format('%.0f', base + tonumber(ARGV[3])))
redis.call('HDEL', key, field)
return 1
