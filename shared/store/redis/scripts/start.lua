-- Record a turn with its first event, or say why not; nothing is written then.
-- KEYS: idempotency key, session, shown turns, all turns, turn, log, sessions by age, active sessions, owners, owner's turns, signals
-- ARGV: 4 turn 5 session 6 '1' for a new session 7 its model 8 expected revision 9 kind 10 input 11 idempotency key
--       12 request hash 13 owner 14 now 15 lease_ms 16 first record 17 signal channel
local key, session_key, shown, all, turn_key, log, idx, act = unpack(KEYS)
local owners, run, signals = KEYS[9], KEYS[10], KEYS[11]
local turn, session = ARGV[4], ARGV[5]
local now = now_ms()

-- A repeated call, whose first reply was lost.
if redis.call('EXISTS', turn_key) == 1 then
  if redis.call('HGET', turn_key, 'owner') ~= ARGV[13] then return { 'fenced' } end
  redis.call('HSET', turn_key, 'owner', ARGV[13])
  return { 'ok', session == '' and -1 or message_count(session_key), '' }
end
if ARGV[11] ~= '' then
  local known = redis.call('HGET', key, 't')
  if known and known ~= ARGV[18] then return { 'again' } end
end
if session ~= '' then
  if ARGV[6] == '1' then
    redis.call('HSET', session_key, 'model', ARGV[7], 'created', ARGV[14], 'um', 0, 'mm', 0, 'running', '', 'last', '', 'rev', 0)
    redis.call('ZADD', idx, ARGV[14], session)
  else
    local row = redis.call('HMGET', session_key, 'rev', 'running')
    if not row[1] then return { 'missing' } end
    if row[1] ~= ARGV[8] or row[2] ~= '' then return { 'again' } end
  end
end
-- Every append asks for the first four fields. The server looks through a small hash from its beginning.
redis.call('HSET', turn_key, 'owner', ARGV[13], 'status', 'running', 'last_seq', 1, 'cancel', '', 'session', session,
  'kind', ARGV[9], 'input', ARGV[10], 'key', ARGV[11], 'hash', ARGV[12], 'epoch', 0, 'created', ARGV[14], 'ended', '',
  'text', '', 'image', '', 'read', text(now))
redis.call('XADD', log, '1-0', 'e', ARGV[16])
if ARGV[11] ~= '' then
  redis.call('DEL', key)
  redis.call('HSET', key, 't', turn, 'h', ARGV[12])
end
redis.call('ZADD', owners, now + tonumber(ARGV[15]), ARGV[13])
redis.call('SADD', run, turn)
if session == '' then return { 'ok', -1, '' } end
redis.call('RPUSH', shown, turn)
redis.call('RPUSH', all, turn)
redis.call('HSET', session_key, 'running', turn, 'last', turn)
redis.call('HINCRBY', session_key, 'rev', 1)
redis.call('HINCRBY', session_key, 'um', 1)
redis.call('HSETNX', session_key, 'title', string.sub(ARGV[10], 1, 480))
session_used(session_key, act, session, ARGV[14])
local count = message_count(session_key)
return { 'ok', count, signal(signals, ARGV[17], 'turn_started', ARGV[13], session, turn, count) }
