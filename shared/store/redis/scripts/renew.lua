-- Renew a node's lease, note which turns it reads, give up what it dropped, and say where its running turns stand.
-- KEYS: owners, owner's turns, dropped turns; then the node's running turns, the turns it drops, the turns it reads
-- ARGV: 4 owner 5 lease_ms 6 number of running turns 7 number of dropped turns; then the ids of the dropped turns
local now = now_ms()
local running, dropped = tonumber(ARGV[6]), tonumber(ARGV[7])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[5]), ARGV[4])
local out = {}
for i = 1, running do
  local row = redis.call('HMGET', KEYS[3 + i], 'owner', 'status', 'last_seq', 'cancel')
  local why = ''
  if not row[1] then why = 'gone' elseif row[1] ~= ARGV[4] or row[2] ~= 'running' then why = 'fenced' end
  out[i] = { why, tonumber(row[3]) or 0, row[4] or '' }
end
for i = 1, dropped do
  local key, turn = KEYS[3 + running + i], ARGV[7 + i]
  local row = redis.call('HMGET', key, 'owner', 'status')
  redis.call('SREM', KEYS[2], turn)
  if row[1] == ARGV[4] and row[2] == 'running' then
    -- A turn without an owner accepts no appends, and any node may end it.
    redis.call('HSET', key, 'owner', '')
    redis.call('SADD', KEYS[3], turn)
  end
end
for i = 4 + running + dropped, #KEYS do
  if redis.call('HGET', KEYS[i], 'status') == 'running' then redis.call('HSET', KEYS[i], 'read', text(now)) end
end
return out
