-- RDMA READ, WRITE and atomic operations: from request to answer (InfiniBand Architecture vol. 1, 9.4 and 9.7).

local start_operations, take_response, settle_operation
do
   local ACKNOWLEDGE, ATOMIC_ACKNOWLEDGE, COMPARE_SWAP = 0x11, 0x12, 0x13
   local READ_RESPONSE_FIRST, READ_RESPONSE_MIDDLE = 0x0d, 0x0e
   local MAX_PENDING = 1024
   local MAX_EARLY = 1024 -- responses kept that came before their request was read
   local SETTLE_FRAMES = 64 -- after the last response in which missing ones may still come
   local NAK_NAMES = {
      [0] = "PSN sequence error",
      "invalid request",
      "remote access error",
      "remote operational error",
      "invalid RD request",
   }

   local operation_count

   function start_operations()
      operation_count = 0
   end

   -- The outcome of an operation is known: it is shown in the frame that told.
   function settle_operation(flow, operation, now)
      operation.numbers = nil
      operation.late = operation.frame.number ~= now.number
      operation.stream, operation.direction = flow.stream, flow.direction
      insert(shows(at_end and operation.frame or now, "operations"), operation)
   end

   local function answer_operation(flow, response, now)
      local list = flow.pending
      for index, operation in ipairs(list) do
         if operation.psn <= response.psn and response.psn <= operation.stop then
            local reads = operation.kind == "rdma-read" and response.opcode >= 0x0d and response.opcode <= 0x10
            local atomic = response.opcode == ATOMIC_ACKNOWLEDGE and operation.operands ~= nil
            if not (reads or atomic) then
               return false
            elseif operation.numbers[response.psn] then
               return true
            end
            operation.numbers[response.psn] = true
            if response.frame.number > operation.frame.number then
               operation.frame = response.frame
            end
            operation.seen = operation.seen + response.seen
            operation.received = operation.received + response.size
            if operation.received >= operation.length then
               if atomic then
                  insert(operation.operands, response.original)
               end
               operation.status = "ok"
               remove(list, index)
               settle_operation(flow, operation, now)
            end
            return true
         end
      end
      return false
   end

   -- All requests up to `psn` were carried out, as `frame` tells.
   local function operations_acknowledged(flow, psn, frame, now)
      local list, index = flow.pending, 1
      while list[index] and list[index].stop <= psn do
         local operation = list[index]
         local write = operation.kind == "rdma-write"
         operation.status = "ok"
         operation.answered = operation.answered or frame.number
         if write and frame.number > operation.frame.number then
            operation.frame = frame
         end
         -- Responses of a READ may still come, where the capture reorders.
         if write or frame.number - operation.answered >= SETTLE_FRAMES then
            remove(list, index)
            settle_operation(flow, operation, now)
         else
            index = index + 1
         end
      end
   end

   local function refuse_operations(flow, psn, frame, name, now)
      local list = flow.pending
      while list[1] and list[1].psn <= psn do
         local operation = remove(list, 1)
         operation.status = "ok"
         if operation.stop >= psn then
            operation.status = name
            operation.frame = frame
         end
         settle_operation(flow, operation, now)
      end
   end

   -- What came before the request was read: it waited behind a hole, or the capture reorders.
   local function answer_early(flow, operation, now)
      local kept = {}
      for _, response in ipairs(flow.early) do
         local own = response.psn >= operation.psn and response.psn <= operation.stop
         if not (own and answer_operation(flow, response, now)) then
            insert(kept, response)
         end
      end
      flow.early = kept
   end

   local function enter_operation(flow, operation, now)
      operation_count = operation_count + 1
      operation.id = operation_count
      operation.status, operation.received, operation.numbers = "unknown", 0, {}
      if #flow.announced < MAX_ANNOUNCED then
         insert(flow.announced, operation)
      end
      insert(flow.pending, operation)
      if flow.early[1] then
         answer_early(flow, operation, now)
      end
      if operation.numbers and flow.answered and flow.answered >= operation.stop then
         -- It was read late, behind a hole: that it was carried out was known before.
         operation.status, operation.answered = "ok", flow.answered_in
         if operation.kind == "rdma-write" then
            remove(flow.pending)
            settle_operation(flow, operation, now)
         end
      end
      if #flow.pending > MAX_PENDING then
         settle_operation(flow, remove(flow.pending, 1), now)
      end
   end

   -- What a request asks for; nothing, where that was not captured.
   local function reth_of(raw)
      if #raw < 16 then
         return { va = ZERO8, rkey = 0, length = 0, cut = true }
      end
      return { va = sub(raw, 1, 8), rkey = u32(raw, 9), length = u32(raw, 13) }
   end

   function announce_write(flow, unit, position, frame, now)
      local operation = reth_of(unit.reth)
      operation.kind, operation.psn, operation.stop = "rdma-write", unit.position, position
      operation.first, operation.frame, operation.seen = unit.first, frame, unit.length - unit.missing
      enter_operation(flow, operation, now)
   end

   -- A READ or an atomic: one packet.
   function ask(flow, packet, position, frame, now)
      local operation
      if packet.what.part == READ then
         operation = reth_of(sub(packet.data, 1, 16))
         operation.kind = "rdma-read"
         operation.stop = position + read_span(flow.order, operation.length) - 1
      else
         local raw = packet.data .. rep("\0", max(0, 28 - #packet.data))
         operation = #packet.data < 28 and reth_of("") or { va = sub(raw, 1, 8), rkey = u32(raw, 9), length = 8 }
         operation.stop = position
         if packet.opcode == COMPARE_SWAP then
            operation.kind, operation.operands = "compare-swap", { sub(raw, 21, 28), sub(raw, 13, 20) }
         else
            operation.kind, operation.operands = "fetch-add", { sub(raw, 13, 20) }
         end
      end
      operation.psn, operation.first, operation.frame, operation.seen = position, packet.frame, frame, 0
      enter_operation(flow, operation, now)
   end

   -- All before `psn` was answered.
   local function note_answer(flow, psn, frame, now)
      if not flow.answered or psn > flow.answered then
         flow.answered, flow.answered_in = psn, frame.number
      end
      if flow.pending[1] then
         operations_acknowledged(flow, psn, frame, now)
      end
   end

   -- An acknowledgement, or the refusal of a request.
   local function take_acknowledge(flow, packet, psn, now)
      local syndrome = byte(packet.data, 1) or 0
      local kind, code = floor(syndrome / 32) % 4, syndrome % 32
      if kind == 0 then
         packets_acknowledged(flow, packet.psn, now)
         note_answer(flow, psn, packet.frame, now)
      elseif kind == 3 and code ~= 0 then
         refuse_operations(flow, psn, packet.frame, NAK_NAMES[code] or format("NAK code %d", code), now)
      end
   end

   -- An acknowledgement that nothing waits for.
   EXPECTED[ACKNOWLEDGE] = function(answering, psn, data, framed, _, number)
      local before, behind = framed and FRAMED_AT or 0, framed and FRAMED_BEHIND or 0
      if not answering.known or #data ~= before + 4 + behind or byte(data, before + 1) % 128 >= 32 then
         return false
      end
      local flow = answering.peer
      local order = flow.order
      local expected = order.expected
      if not expected or order.count > 0 or flow.pending[1] then
         return false
      end
      local position = expected + ahead(expected, psn, PSN_MODULUS)
      if not order.patient and position > (order.acked or -huge) then
         order.acked = position
      end
      if position > (flow.answered or -huge) then
         flow.answered, flow.answered_in = position, number
      end
      return true
   end

   -- Take an answer to requests of `flow`.
   function take_response(flow, packet, now)
      local order = flow.order
      if order.expected == nil then
         return
      end
      local psn = order.expected + ahead(order.expected, packet.psn, PSN_MODULUS)
      local opcode, header = packet.opcode, packet.what.header
      if opcode == ACKNOWLEDGE then
         take_acknowledge(flow, packet, psn, now)
         return
      end
      local response = {
         opcode = opcode,
         psn = psn,
         frame = packet.frame,
         size = max(0, packet.length - header),
         seen = max(0, #packet.data - header),
      }
      if opcode == ATOMIC_ACKNOWLEDGE then
         response.size, response.seen = 8, max(0, min(8, #packet.data - 4))
         response.original = sub(packet.data .. rep("\0", 12), 5, 12)
      end
      packets_acknowledged(flow, packet.psn, now)
      if not answer_operation(flow, response, now) then
         insert(flow.early, response)
         if #flow.early > MAX_EARLY then
            remove(flow.early, 1)
         end
      end
      if opcode ~= READ_RESPONSE_MIDDLE and opcode ~= READ_RESPONSE_FIRST then
         note_answer(flow, psn, packet.frame, now)
      end
   end
end
