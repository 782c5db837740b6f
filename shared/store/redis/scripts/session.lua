-- Make a session. KEYS: session, sessions by age, active sessions; ARGV: 4 session 5 model 6 now
redis.call('HSET', KEYS[1], 'model', ARGV[5], 'created', ARGV[6], 'um', 0, 'mm', 0, 'running', '', 'last', '', 'rev', 0)
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[4])
session_used(KEYS[1], KEYS[3], ARGV[4], ARGV[6])
