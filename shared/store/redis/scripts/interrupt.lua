-- End a turn whose owner is gone, if it is still as it was read, and its owner's lease is over or the turn was dropped.
-- KEYS: owners, active sessions, owner's turns, signals, dropped turns, turn, log, session, image, idempotency key
-- ARGV: 4 owner of the turn 5 last_seq as read 6 kept_ms 7 gone_ms 8 signal channel 9 turn 10 session 11 channel
--       12 the terminal event 13 ended 14 text 15 image 16 the node that ends it
local keys = { run = KEYS[3], signals = KEYS[4], turn = KEYS[6], log = KEYS[7], session = KEYS[8], image = KEYS[9], key = KEYS[10] }
local row = redis.call('HMGET', keys.turn, 'owner', 'status', 'last_seq')
if row[1] ~= ARGV[4] or row[2] ~= 'running' or row[3] ~= ARGV[5] then
  if not row[1] or row[2] ~= 'running' then
    redis.call('SREM', KEYS[5], ARGV[9])
    redis.call('SREM', KEYS[3], ARGV[9])
  end
  return { 0, '' }
end
local lease = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[4]) or 0)
if lease >= now_ms() and redis.call('SISMEMBER', KEYS[5], ARGV[9]) == 0 then return { 0, '' } end
local seq = row[3] + 1
redis.call('XADD', keys.log, seq .. '-0', 'e', ARGV[12])
redis.call('HSET', keys.turn, 'last_seq', seq, 'epoch', 1)
redis.call('SREM', KEYS[5], ARGV[9])
publish(ARGV[11], seq .. '\n' .. seq .. '\n' .. ARGV[12])
local sent = end_turn(keys, ARGV[9], ARGV[10], ARGV[8], ARGV[16], 'interrupted', ARGV[13], ARGV[14], ARGV[15], ARGV[6], ARGV[7])
return { 1, sent }
