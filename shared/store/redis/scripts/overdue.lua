-- The nodes whose leases are over. A node that is gone and has no turns left is forgotten here.
-- KEYS: owners; ARGV: 4 '' or a node to be forgotten, whose turns are KEYS[2]
if ARGV[4] ~= '' then
  local lease = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[4]) or 0)
  if lease < now_ms() and redis.call('SCARD', KEYS[2]) == 0 then redis.call('ZREM', KEYS[1], ARGV[4]) end
end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now_ms()))
