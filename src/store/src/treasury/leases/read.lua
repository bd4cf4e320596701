-- What a key has, and the time.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return {string.format('%.0f', now), redis.call('HGETALL', KEYS[1])}
