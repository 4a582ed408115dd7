-- RDMA-CM: which queue pairs were connected, for which service, and between which RDS addresses (protocol.md 7.1).

do
   local is_copy, recent
   do
      -- RDMA-CM waits longer before it sends a message again: what comes sooner was captured twice. By frames, where two
      -- times are of clocks that have nothing in common (protocol.md 13).
      local REPEATED_SECONDS, REPEATED_FRAMES, OTHER_CLOCK_SECONDS = 1, 64, 86400
      local MAX_RECENT, MOST_BYTES = 1024, 264

      -- Whether the same message was captured a moment ago: at the other end, in a capture that was merged of both.
      function is_copy(packet, now)
         local name = packet.src .. ">" .. packet.dst .. ">" .. sub(packet.data, 1, MOST_BYTES)
         local before, entry = recent[name], { name = name, number = now.number, time = now.time }
         recent[name] = entry
         insert(recent, entry)
         if #recent > MAX_RECENT then
            local oldest = remove(recent, 1)
            recent[oldest.name] = recent[oldest.name] ~= oldest and recent[oldest.name] or nil
         end
         local apart = math.abs(now.time - (before or now).time)
         return before ~= nil
            and (apart < REPEATED_SECONDS or apart > OTHER_CLOCK_SECONDS and now.number - before.number <= REPEATED_FRAMES)
      end
   end

   local DETH_BYTES, MAD_BYTES, CM_BYTES, IP_CM_BYTES = 8, 24, 232, 36
   local CM_CLASS = 0x07
   local DREQ = 0x15
   REQ, REJ, REP = 0x10, 0x12, 0x13
   local CM_NAMES = {
      [REQ] = "REQ",
      [0x11] = "MRA",
      [REJ] = "REJ",
      [REP] = "REP",
      [0x14] = "RTU",
      [DREQ] = "DREQ",
      [0x16] = "DREP",
   }
   local MAX_EXCHANGES = 16384
   -- Exchanges by the address of each side and its communication ID.
   local active, passive, exchange_queue

   function start_cm()
      recent = {} -- source, destination and bytes of a message -> its latest frame; and these frames in their order
      active, passive, exchange_queue = {}, {}, { first = 1, last = 0 }
   end

   local function exchange_key(src, dst, id)
      return src .. ">" .. dst .. "/" .. id
   end

   local function remember(key, exchange)
      active[key] = exchange
      local queue = exchange_queue
      queue.last = queue.last + 1
      queue[queue.last] = { key, exchange }
      if queue.last - queue.first >= MAX_EXCHANGES then
         local old_key, old = queue[queue.first][1], queue[queue.first][2]
         queue[queue.first] = nil
         queue.first = queue.first + 1
         if active[old_key] == old then
            active[old_key] = nil
         end
         if old.passive_key then
            passive[old.passive_key] = nil
         end
      end
   end

   local function rds_address(raw, version)
      return address_text(version == 4 and sub(raw, 13, 16) or raw)
   end

   -- RDS private data, or what is wrong with them.
   local function read_private(data, version, problem)
      local layout = CM_PRIVATE[version]
      if problem then
         return nil, problem
      end
      local raw = sub(data, 1, layout.size)
      if raw == rep("\0", layout.size) then
         return nil, "no RDS private data"
      end
      return raw, nil
   end

   local function take_request(message, body, src, dst, problem)
      local version = RDS_SERVICES[sub(body, 9, 16)] or 0
      local id = u32(body, 1)
      local a, b = src, dst
      message.version = version
      if version > 0 then
         local private = sub(body, 141)
         message.ip = sub(private, 1, IP_CM_BYTES)
         message.private, problem = read_private(sub(private, IP_CM_BYTES + 1), version, problem)
         local ip_version = floor(byte(message.ip, 2) / 16)
         if not problem and ip_version ~= version then
            problem = format("IP version %d does not go with the service's %d", ip_version, version)
         end
         local saddr, daddr = sub(message.ip, 5, 20), sub(message.ip, 21, 36)
         if find(saddr, "[^\0]") and find(daddr, "[^\0]") then
            a, b = rds_address(saddr, version), rds_address(daddr, version)
         elseif message.private then
            local size = version == 4 and 4 or 16
            a, b = address_text(sub(message.private, 1, size)), address_text(sub(message.private, size + 1, 2 * size))
         end
      end
      message.problem = problem
      local key = exchange_key(src, dst, id)
      local exchange = active[key]
      if not exchange or exchange.transaction ~= message.transaction then
         local mtu = floor(byte(body, 51) / 16)
         exchange = {
            active = src,
            passive = dst,
            transaction = message.transaction,
            version = version,
            qpn = u24(body, 33),
            psn = u24(body, 45),
            mtu = mtu >= 1 and mtu <= 5 and 128 * 2 ^ mtu or nil,
            a = a,
            b = b,
            passive_id = 0,
            request = message,
         }
         remember(key, exchange)
      end
      return exchange
   end

   -- The exchange of a message that is no REQ.
   local function find_exchange(attribute, body, src, dst)
      local own_id = u32(body, 1)
      local has_remote = attribute ~= REQ
      local remote_id = has_remote and u32(body, 5) or 0
      local found = active[exchange_key(dst, src, remote_id)]
      if found and (attribute == REP or found.passive_id == 0 or found.passive_id == own_id) then
         return found, false
      end
      found = active[exchange_key(src, dst, own_id)]
      if found and (remote_id == 0 or found.passive_id == 0 or found.passive_id == remote_id) then
         return found, true
      end
      found = passive[exchange_key(src, dst, own_id)]
      if found then
         return found, false
      end
      if attribute == REJ and remote_id == 0 then
         return nil, false
      end
      return passive[exchange_key(dst, src, remote_id)], true
   end

   local connect
   do
      local function renew(src, dst, qpn, now)
         local old = find_flow(src, dst, qpn)
         local kept = old and old.kept or {}
         if old and old.stream then
            finish_flow(old, now)
         end
         if old and old.peer and old.peer.peer == old then
            old.peer.peer, old.peer.known = nil, nil
         end
         return new_flow(src, dst, qpn), kept
      end

      -- A packet that came before the REP: of this connection where its number is one of the next. Answers come after requests.
      local function take_early(flow, packet, expected, answers, now)
         if (packet.what.part == RESPONSE) == answers and (packet.psn - expected) % PSN_MODULUS < MAX_WAITING_PACKETS then
            follow(flow, packet, now)
         end
      end

      -- Two queue pairs are connected: for RDS, or not.
      function connect(exchange, now)
         local forward, early = renew(exchange.active, exchange.passive, exchange.passive_qpn, now)
         local back, early_back = renew(exchange.passive, exchange.active, exchange.qpn, now)
         if not (forward and back) then
            return
         elseif exchange.version == 0 then
            forward.foreign, back.foreign = true, true
            return
         end
         local a, b = { host = exchange.a, port = exchange.qpn }, { host = exchange.b, port = exchange.passive_qpn }
         local stream = add_stream("ib", a, b, true)
         exchange.stream = stream
         tell(stream, 0, "opened", now)
         forward.mtu, back.mtu = exchange.mtu, exchange.mtu
         direct(forward, stream, 0, exchange.passive_psn, false)
         direct(back, stream, 1, exchange.psn, false)
         forward.peer, back.peer = back, forward
         stream.first_frame = now.number
         forward.lives, forward.life = { stream }, 1
         back.lives, back.life = forward.lives, 1
         for _, answers in ipairs({ false, true }) do
            for _, packet in ipairs(early) do
               take_early(forward, packet, exchange.passive_psn, answers, now)
            end
            for _, packet in ipairs(early_back) do
               take_early(back, packet, exchange.psn, answers, now)
            end
         end
      end
   end

   -- Take a datagram to queue pair 1. Returns true where it is a message of RDMA-CM that belongs to RDS.
   function take_datagram(packet, now)
      local data = packet.data
      if is_copy(packet, now) or #data < DETH_BYTES + MAD_BYTES then
         return false
      end
      local attribute = u16(data, DETH_BYTES + 17)
      local start = DETH_BYTES + MAD_BYTES
      if byte(data, DETH_BYTES + 2) ~= CM_CLASS or not CM_NAMES[attribute] then
         return false
      end
      local problem
      local body = sub(data, start + 1, start + CM_BYTES)
      if #body < CM_BYTES then
         problem = format("cut short: %d of %d bytes were captured", #data - start, CM_BYTES)
      end
      local message = {
         attribute = attribute,
         name = CM_NAMES[attribute],
         transaction = sub(data, DETH_BYTES + 9, DETH_BYTES + 16),
         src = packet.src,
         dst = packet.dst,
         body = body .. rep("\0", CM_BYTES - #body),
         cut = #body < CM_BYTES,
      }
      body = message.body
      local exchange
      if attribute == REQ then
         exchange = take_request(message, body, packet.src, packet.dst, problem)
      else
         exchange = find_exchange(attribute, body, packet.src, packet.dst)
         if not exchange then
            return false
         end
         if attribute == REP and not exchange.established then
            exchange.established = true
            exchange.passive_id, exchange.passive_qpn, exchange.passive_psn = u32(body, 1), u24(body, 13), u24(body, 21)
            exchange.passive_key = exchange_key(exchange.passive, exchange.active, exchange.passive_id)
            passive[exchange.passive_key] = exchange
            connect(exchange, now)
         end
         message.problem = problem
         if attribute == DREQ and exchange.stream and not exchange.closed then
            exchange.closed = true
            tell(exchange.stream, packet.src == exchange.active and 0 or 1, "DREQ", now)
         end
         if attribute == REP and exchange.version > 0 then
            message.private, message.problem = read_private(sub(body, 37), exchange.version, problem)
         elseif attribute == REJ and find(sub(body, 85, 88), "[^\0]") then
            message.reject = sub(body, 85, 88)
         end
      end
      if exchange.version == 0 then
         return false
      end
      message.version, message.exchange, message.stream = exchange.version, exchange, exchange.stream
      check_cm(message)
      insert(shows(now, "cm"), message)
      return true
   end
end
