-- TCP connections that carry RDS: segments in, messages and acknowledgements out.

local connections -- both ports -> source -> destination -> the half that the sender fills
do
   local STRAY_BYTES = 8388608 -- nothing that a connection sends out of order, or repeats, lies further off
   local MAX_CONNECTIONS = 131072
   local IN_FLIGHT_FRAMES = 64 -- what was in flight to an end that has closed may still come for as long

   local closed -- halves whose connection was reset, oldest first: half, closing frame
   local last_number, last_time -- of the last frame with a segment
   local last_segment -- the same table for all: each is looked at once

   function start_tcp()
      last_segment = {}
      connections, connection_count = {}, 0
      closed, last_number = { first = 1, last = 0 }, nil
   end

   -- The half that a segment's sender fills, nil where its connection is not known.
   local function half_of(ports, src, dst)
      local from = connections[ports]
      local to = from and from[src]
      return to and to[dst]
   end

   local function enter_half(half, sport, dport, src, dst)
      local ports = sport * 65536 + dport
      local from = connections[ports] or {}
      local to = from[src] or {}
      connections[ports], from[src], to[dst] = from, to, half
      half.ports, half.src, half.dst = ports, src, dst
   end

   local function forget_half(half)
      local from = connections[half.ports]
      local to = from and from[half.src]
      half.gone, half.expected = true, nil
      if not to or to[half.dst] ~= half then
         return -- an end connected with itself: the other half has taken this one's place
      end
      to[half.dst] = nil
      if not next(to) then
         from[half.src] = nil
         if not next(from) then
            connections[half.ports] = nil
         end
      end
   end

   -- Enter a connection that `segment` belongs to; `backward` where its sender was dialled.
   local function open_connection(segment, now, backward, from_start)
      if connection_count >= MAX_CONNECTIONS then
         return nil
      end
      local source = { host = segment.src, port = segment.sport }
      local target = { host = segment.dst, port = segment.dport }
      local a, b = source, target
      if backward then
         a, b = target, source
      end
      local connection = { stream = add_stream("tcp", a, b, from_start), halves = {} }
      for direction = 0, 1 do
         connection.halves[direction] = new_half(connection, direction)
      end
      local own = backward and 1 or 0
      enter_half(connection.halves[own], segment.sport, segment.dport, segment.src, segment.dst)
      enter_half(connection.halves[1 - own], segment.dport, segment.sport, segment.dst, segment.src)
      connection_count = connection_count + 1
      connection.opening = tell(connection.stream, own, "opened", now)
      return connection.halves[own]
   end

   -- Report what is left of a connection that `now` shows to be over, and forget it.
   local function end_connection(half, now)
      for direction = 0, 1 do
         local other = half.connection.halves[direction]
         settle(other, now, false, other.acked)
         settle(other, now, true)
         flush(other, other.closing or now, now)
      end
      forget_half(half.connection.halves[0])
      forget_half(half.connection.halves[1])
      connection_count = connection_count - 1
   end

   local function opened_by_syn(half, segment, now)
      local first_payload = (segment.seq + 1) % TWO32
      if half then
         local known = half.base == nil or half.base == first_payload
         if not known or half.connection.over then
            end_connection(half, now)
            half = nil
         end
      end
      local connection = half and half.connection
      if connection and connection.halves[0].base == nil and connection.halves[1].base == nil then
         -- Only acknowledgements stood before it: it begins here.
         half.lane.stream.from_start = (half.direction == 1) == segment.ack_flag
         connection.opening.event = nil
         connection.opening = tell(half.lane.stream, half.direction, "opened", now)
      end
      half = half or open_connection(segment, now, segment.ack_flag, true)
      if half and half.base == nil then
         half.base = first_payload
         half.search = nil
      end
      return half
   end

   -- The stream was not seen from its start: its first payload has this number.
   local function begin(half, number)
      half.base = number
      half.search = { since = 0, last_sequence = 0 }
   end

   local function is_far(half, number)
      return half.base ~= nil and math.abs(offset_in(half, number) - half.next) > STRAY_BYTES
   end

   -- Whether a segment belongs to another connection whose SYN was not captured: the one that is known has ended, or the
   -- numbers of both directions have jumped, and a segment that came before waits where they have jumped to.
   local function is_another(half, segment)
      if segment.size == 0 or not is_far(half, segment.seq) then
         return false
      end
      local last = half.pending[#half.pending]
      return half.connection.over
         or is_far(half.connection.halves[1 - half.direction], segment.ack)
            and last ~= nil
            and math.abs(last.start - offset_in(half, segment.seq)) <= STRAY_BYTES
   end

   -- Begin another connection with a segment, and with what of it waits behind a hole of the one that is known.
   local function open_another(half, segment, now, backward)
      local base, offset, waiting = half.base, offset_in(half, segment.seq), {}
      for index = #half.pending, 1, -1 do
         local piece = half.pending[index]
         if math.abs(piece.start - offset) <= STRAY_BYTES then
            insert(waiting, 1, remove(half.pending, index))
            half.pending_bytes = half.pending_bytes - #piece.data
         end
      end
      local first = half.patient and waiting[1] and waiting[1].frame or now
      end_connection(half, first)
      half = open_connection(segment, first, backward, false)
      for _, piece in ipairs(half and waiting or {}) do
         local number = (base + piece.start) % TWO32
         if half.base == nil then
            begin(half, number)
         end
         take(half, offset_in(half, number), piece.size, piece.data, half.patient and piece.frame or now)
      end
      return half
   end

   local function close(half, segment, now)
      local connection = half.connection
      if half.ended or connection.reset then
         return
      end
      half.ended = true
      connection.reset = segment.rst
      connection.over = segment.rst or connection.halves[1 - half.direction].ended
      tell(connection.stream, half.direction, segment.rst and "RST" or "FIN", now)
      local behind = half.base and (segment.seq + segment.size - half.base - half.next) % TWO32 or 0
      for direction = 0, 1 do
         local other = connection.halves[direction]
         -- What lies before a FIN and was not seen may still come; so may what was in flight to an end that resets.
         if segment.rst or (other == half and behind == 0) then
            other.closing = other.closing or now
            if other == half and not other.pending[1] then
               flush(other, now, now)
            else
               closed.last = closed.last + 1
               closed[closed.last] = { half = other, frame = now }
            end
         end
      end
   end

   -- Report what a closed connection left incomplete, once nothing more can be in flight.
   local function flush_closed(now, all)
      local entry = closed[closed.first]
      while entry and (all or entry.frame.number < now.number - IN_FLIGHT_FRAMES) do
         closed[closed.first] = nil
         closed.first = closed.first + 1
         if not entry.half.pending[1] then
            flush(entry.half, entry.frame, now)
         end
         entry = closed[closed.first]
      end
   end

   -- What the peer had acknowledged in frames up to `number`: an acknowledgement may stand before what it is for.
   local function acknowledged_before(half, number)
      local positions, frames = half.lane.ack_positions, half.lane.ack_frames
      local index = #positions
      while index > 0 and frames[index] > number do
         index = index - 1
      end
      return positions[index] or -1
   end

   -- The capture has ended: give up all holes and searches, and report what is incomplete.
   function finish_tcp()
      if not last_number then
         return
      end
      local now = { number = last_number, time = last_time }
      flush_closed(now, true)
      local done = {}
      for _, from in pairs(connections) do
         for _, to in pairs(from) do
            for _, half in pairs(to) do
               done[half.connection.stream.number] = half.connection
            end
         end
      end
      for number = 0, #streams - 1 do
         local connection = done[number]
         for direction = 0, connection and 1 or -1 do
            local half = connection.halves[direction]
            settle(half, now, false, acknowledged_before(half, now.number - IN_FLIGHT_FRAMES))
            settle(half, now, true)
            flush(half, half.closing or now, now)
         end
      end
   end

   -- Whether a segment with the number `seq` acknowledges more than was acknowledged before: all before `number`.
   local function advances(half, seq, number)
      if number == half.last_ack then
         return false
      end
      local other = half.connection.halves[1 - half.direction]
      if other.base == nil then
         return false
      end
      half.last_ack = number
      local offset = offset_in(other, number)
      -- Where both numbers are far away, another connection may have begun.
      return offset > other.acked and (offset - other.acked <= STRAY_BYTES or not is_far(half, seq))
   end

   local function take_acknowledgement(half, number, now)
      local other = half.connection.halves[1 - half.direction]
      other.acked = offset_in(other, number)
      acknowledged(other.connection.stream, other.direction, other.acked, now)
      if other.pending[1] then
         settle(other, now)
      end
   end

   -- Where nothing waits, the next segment is known by its number.
   local function expect_next(half)
      local base = not (half.gone or half.pending[1]) and half.base
      half.expected = base and (base + half.next) % TWO32 or nil
   end

   -- Take a segment of a connection that carries RDS. `sure`: a message begins with the first byte of its payload.
   function feed_tcp(segment, now, rds_port, sure)
      segment.used = true
      last_number, last_time = now.number, now.time
      if closed[closed.first] then
         flush_closed(now)
      end
      local half = segment.half
      if segment.syn then
         half = opened_by_syn(half, segment, now)
      else
         local backward = rds_port(segment.sport) and not rds_port(segment.dport)
         if not half then
            half = open_connection(segment, now, backward, false)
         elseif is_another(half, segment) then
            half = open_another(half, segment, now, backward)
         end
      end
      if not half then
         return
      end
      if segment.size > 0 then
         local seq = segment.syn and (segment.seq + 1) % TWO32 or segment.seq
         if half.base == nil then
            if not sure then
               begin(half, seq)
            else
               half.base = seq
               -- The other direction's next message begins where this side awaits it.
               half.connection.halves[1 - half.direction].base = segment.ack
            end
         end
         local offset = offset_in(half, seq)
         take(half, offset, segment.size, segment.data, now)
         if half.open or half.search or half.pending[1] then
            tell_part(half.lane, now)
         end
      end
      if segment.ack_flag and advances(half, segment.seq, segment.ack) then
         take_acknowledgement(half, segment.ack, now)
      end
      if segment.fin or segment.rst then
         close(half, segment, now)
      end
      expect_next(half.connection.halves[0])
      expect_next(half.connection.halves[1])
   end

   -- Take a segment as most are: with no flag but ACK and PSH, the next in order, and nothing waits. Its payload lies in `tvb`
   -- from `at` to `stop`. Returns whether it was one.
   function feed_next(half, seq, ack, tvb, at, stop, number, pinfo)
      if seq ~= half.expected or closed[closed.first] then
         return false
      end
      local now
      last_number, last_time = number, time_of(pinfo)
      if stop > at then
         local size = stop - at
         local data = raw_bytes(tvb, at, size)
         if not go_on(half, data, number, last_time) then
            now = { number = number, time = last_time }
            take(half, half.next, size, data, now)
            if half.open or half.search then
               tell_part(half.lane, now)
            end
         end
         half.expected = (seq + size) % TWO32
      end
      if ack ~= half.last_ack and advances(half, seq, ack) then
         take_acknowledgement(half, ack, now or { number = number, time = last_time })
      end
      return true
   end

   -- Read a TCP segment that begins behind `at` bytes of `tvb`, and ends on the wire where `stop` bytes have passed. `head`
   -- has the first bytes of `tvb`.
   function read_segment(tvb, head, at, stop, src, dst)
      local segment = last_segment
      local sport, s, dport, d, q3, q2, q1, q0, a3, a2, a1, a0, header, bits = byte(head, at + 1, at + 14)
      header = at + floor(header / 16) * 4
      if header < at + 20 or header > stop then
         return nil
      end
      sport, dport = sport * 256 + s, dport * 256 + d
      segment.src, segment.dst, segment.sport, segment.dport = src, dst, sport, dport
      segment.seq, segment.ack = ((q3 * 256 + q2) * 256 + q1) * 256 + q0, ((a3 * 256 + a2) * 256 + a1) * 256 + a0
      if bits ~= segment.bits then
         segment.bits = bits
         segment.fin, segment.syn, segment.rst = bits % 2 == 1, has(bits, 0x02), has(bits, 0x04)
         segment.ack_flag = has(bits, 0x10)
      end
      segment.size, segment.data = stop - header, bytes_between(tvb, header, stop)
      segment.half = half_of(sport * 65536 + dport, src, dst)
      segment.used = false
      return segment
   end
end
