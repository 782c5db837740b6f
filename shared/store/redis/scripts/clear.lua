-- Remove all messages of a session, or the session itself. The turns wait in "trash" until they are dropped one by one.
-- KEYS: session, shown turns, all turns, sessions by age, active sessions, trash, signals
-- ARGV: 4 session 5 origin 6 now 7 signal channel 8 'clear' or 'delete'
local running = redis.call('HGET', KEYS[1], 'running')
if not running then return { 'missing', '' } end
if running ~= '' then return { 'running', running } end
local delete = ARGV[8] == 'delete'
for _, turn in ipairs(redis.call('LRANGE', delete and KEYS[3] or KEYS[2], 0, -1)) do
  redis.call('RPUSH', KEYS[6], ARGV[8] .. ' ' .. turn)
end
redis.call('DEL', KEYS[2])
if delete then
  redis.call('DEL', KEYS[1], KEYS[3])
  redis.call('ZREM', KEYS[4], ARGV[4])
  redis.call('ZREM', KEYS[5], ARGV[4])
else
  redis.call('HSET', KEYS[1], 'um', 0, 'mm', 0, 'last', '')
  redis.call('HDEL', KEYS[1], 'title')
  redis.call('HINCRBY', KEYS[1], 'rev', 1)
  session_used(KEYS[1], KEYS[5], ARGV[4], ARGV[6])
end
return { 'ok', signal(KEYS[7], ARGV[7], delete and 'session_deleted' or 'session_cleared', ARGV[5], ARGV[4], '', '') }
