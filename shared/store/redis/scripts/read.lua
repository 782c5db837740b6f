-- A turn, some of its log, the store's time, and the end of its owner's lease, from one moment.
-- KEYS: turn, log, owners; ARGV: 4 the seq after which the log is wanted, or '' 5 at most so many segments; then the turn's fields
local segments = {}
if ARGV[4] ~= '' then
  segments = redis.call('XRANGE', KEYS[2], (ARGV[4] + 1) .. '-0', '+', 'COUNT', ARGV[5])
end
local lease = redis.call('ZSCORE', KEYS[3], redis.call('HGET', KEYS[1], 'owner') or '') or '0'
return { redis.call('HMGET', KEYS[1], unpack(ARGV, 6)), segments, text(now_ms()), lease }
