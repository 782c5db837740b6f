-- Renew a node's lease, from the thread that does nothing else. KEYS: owners; ARGV: 4 owner 5 lease_ms
redis.call('ZADD', KEYS[1], now_ms() + tonumber(ARGV[5]), ARGV[4])
