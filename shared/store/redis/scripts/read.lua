-- A turn, some of its log, and the store's time, from one moment.
-- KEYS: turn, log; ARGV: 4 the seq after which the log is wanted, or '' 5 at most so many segments; then the turn's fields
local segments = {}
if ARGV[4] ~= '' then
  segments = redis.call('XRANGE', KEYS[2], (ARGV[4] + 1) .. '-0', '+', 'COUNT', ARGV[5])
end
return { redis.call('HMGET', KEYS[1], unpack(ARGV, 6)), segments, text(now_ms()) }
