-- Ask for the end of a running turn: a field of the turn, so that its owner cannot miss it, and a signal, which is quicker.
-- KEYS: turn, signals; ARGV: 4 turn 5 origin 6 signal channel
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return '' end
redis.call('HSET', KEYS[1], 'cancel', '1')
return signal(KEYS[2], ARGV[6], 'cancel', ARGV[5], '', ARGV[4], '')
