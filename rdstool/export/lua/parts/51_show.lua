-- The tree. Nothing is added that nobody looks at: neither the tree on the screen nor a filter, column or tap.

local show_frame
do
   -- Who reads payload: the dissector of its destination port, else the one that "Decode As" has for all ports; for single
   -- ones it has none in a table that Lua made. 4.0 has no call for the one that it has.
   local rds_port = DissectorTable.new("rds.port", "RDS port", ftypes.UINT16, base.DEC, rds)
   -- Neither has a call that tells whether there is one, and to offer each message costs a tenth of tshark's time: that waits
   -- until another script has asked for the table, as it has to before it can enter a dissector.
   local rds_payload
   if is_wireshark(4, 4) then
      local made = DissectorTable.new("rds.payload", "RDS payload", ftypes.NONE, base.NONE, rds)
      local get = DissectorTable.get
      function DissectorTable.get(name)
         if name == "rds.payload" then
            rds_payload = made
         end
         return get(name)
      end
   end

   -- How fields are added to one frame's tree: `add(tree, name, ...)`, with `generated` and `hidden` after it.
   local add

   local function add_always(tree, name, ...)
      return tree:add(fields[name], ...)
   end

   local function add_referenced(tree, name, ...)
      if referenced(tree, fields[name]) then
         return tree:add(fields[name], ...)
      end
      return nil
   end

   local function generated(tree, name, ...)
      local item = add(tree, name, ...)
      if item then
         item:set_generated()
      end
      return item
   end

   local function hidden(tree, name, ...)
      local item = add(tree, name, ...)
      if item then
         item:set_generated()
         item:set_hidden()
      end
   end

   local function uint64(number)
      local low = number % TWO32
      return UInt64.new(floor(low), floor((number - low) / TWO32))
   end

   local function span_of_time(seconds)
      local sign = seconds < 0 and -1 or 1
      local nanoseconds = floor(seconds * sign * 1e9 + 0.5)
      local rest = nanoseconds % 1000000000
      return NSTime.new(sign * floor((nanoseconds - rest) / 1000000000), sign * floor(rest))
   end

   -- Expert items of the groups that are switched on.
   local function add_findings(tree, subject)
      for _, finding in ipairs(subject.findings or {}) do
         local rule = RULES[finding.rule]
         if rds.prefs[rule.group] then
            local expert = experts[finding.rule .. "/" .. (finding.severity or rule.severity)]
            tree:add_proto_expert_info(expert, finding.rule .. ": " .. finding.text)
         end
      end
   end

   local function add_ends(tree, transport, src, dst)
      generated(tree, "rds.transport", transport)
      generated(tree, "rds.src", src)
      generated(tree, "rds.dst", dst)
      hidden(tree, "rds.addr", src)
      hidden(tree, "rds.addr", dst)
   end

   local function add_stream_fields(tree, stream, direction)
      local source, target = ends_of(stream, direction)
      add_ends(tree, stream.transport, source.host, target.host)
      generated(tree, "rds.connection", stream.pair.name)
      generated(tree, "rds.stream", stream.number)
      generated(tree, "rds.direction", direction)
   end

   local function add_flags(tree, flags, range)
      local item, set = add(tree, "rds.flags", range), {}
      for _, row in ipairs(FLAG_FIELDS) do
         add(item or tree, row[1], range)
         if has(flags, row[2]) then
            insert(set, row[3])
         end
      end
      if item and set[1] then
         item:append_text(format(" (%s)", concat(set, ", ")))
      end
   end

   local function add_checksum(tree, message, range)
      local item = add(tree, "rds.checksum", range)
      if item then
         item:append_text(message.status == "absent" and " [unverified: none]" or format(" [%s]", message.status))
      end
      generated(tree, "rds.checksum.status", range, message.status)
   end

   local function add_extensions(tree, message, range)
      local parsed = parse_extensions(sub(message.raw, 33, 48))
      local item = add(tree, "rds.exthdr", range) or tree
      for _, one in ipairs(parsed.items) do
         local extension = one.extension
         local branch = item
         if extension and extension.field then
            branch = add(item, extension.field, range(one.at, 1 + extension.size)) or item
         end
         generated(branch, "rds.exthdr.type", range(one.at, 1))
         for _, row in ipairs(extension and extension.fields or {}) do
            add(branch, row[1], range(one.at + 1 + row[2], row[3]))
         end
      end
      if parsed.problem then
         generated(item, "rds.exthdr.problem", parsed.problem)
      end
   end

   local function add_ports(tree, message)
      if not message.ports then
         return
      end
      local function list(name, ports, text)
         for _, port in ipairs(ports or {}) do
            local item = generated(tree, name, port)
            if item and text then
               item:append_text(text)
            end
         end
      end
      local new = {}
      for _, port in ipairs(message.set or {}) do
         new[port] = true
      end
      for _, port in ipairs(message.ports) do
         local item = generated(tree, "rds.congested", port)
         if item and new[port] then
            item:append_text(" (new)")
         end
      end
      list("rds.congested.set", message.set)
      list("rds.congested.cleared", message.cleared)
   end

   local function add_links(tree, message)
      generated(tree, "rds.frame", message.frame.number)
      if message.first.number ~= message.frame.number then
         generated(tree, "rds.first_frame", message.first.number)
      end
      if message.numbered and message.expected then
         local item = generated(tree, "rds.expected", uint64(message.expected))
         if item and message.expected ~= message.sequence then
            item:append_text(" (this is another)")
         end
      end
      if message.original then
         generated(tree, "rds.retransmission_of", message.original.number)
      end
      if message.request then
         generated(tree, "rds.request_in", message.request.number)
         generated(tree, "rds.response_time", span_of_time(message.response_time))
      end
      if message.response then
         generated(tree, "rds.response_in", message.response.number)
      end
      local acked = acknowledging_frame(message)
      if acked and acked >= message.frame.number then
         generated(tree, "rds.acked_in", acked)
      end
      for _, operation in ipairs(message.operations or {}) do
         generated(tree, "rds.rdma.announced", operation.id)
      end
   end

   local function add_header(tree, message, range)
      for _, row in ipairs(HEADER_FIELDS) do
         local name, part = row[1], range(row[2], row[3])
         if name == "rds.flags" then
            add_flags(tree, message.flags, part)
         elseif name == "rds.checksum" then
            add_checksum(tree, message, part)
         elseif name == "rds.exthdr" then
            add_extensions(tree, message, part)
         else
            add(tree, name, part)
         end
      end
      hidden(tree, "rds.port", range(20, 2))
      hidden(tree, "rds.port", range(22, 2))
   end

   -- Bytes that do not lie in this frame as they are.
   local function bytes_range(raw)
      return ByteArray.new(raw, true):tvb("RDS")()
   end

   -- The bytes of a message from its header on: where they lie in this frame, or put together.
   local function bytes_of(message, tvb)
      if message.at and tvb and message.at + HEADER_BYTES + message.seen <= tvb:len() then
         return tvb(message.at, HEADER_BYTES + message.seen)
      end
      local parts = parts_of(message) or { message.payload }
      parts[0] = message.raw
      return ByteArray.new(concat(parts, "", 0), true):tvb("RDS message")()
   end

   local function add_message_tree(message, root, range)
      local tree = root:add(rds, range)
      tree:append_text(format(" (%s), ", message.tcp and "TCP" or "InfiniBand") .. headline(message))
      generated(tree, "rds.number", message.number)
      generated(tree, "rds.kind", message.kind)
      add_stream_fields(tree, message.stream, message.direction)
      local path = path_at(message)
      if path then
         generated(tree, "rds.path", path)
      end
      add_header(tree, message, range(0, HEADER_BYTES))
      generated(tree, "rds.fragments", message.fragments)
      generated(tree, "rds.seen", message.seen)
      generated(tree, "rds.complete", message.complete)
      generated(tree, "rds.inferred", message.inferred or false)
      hidden(tree, "rds.position", uint64(message.position))
      add_ports(tree, message)
      add_links(tree, message)
      if range:len() > HEADER_BYTES then
         add(tree, "rds.payload", range(HEADER_BYTES))
      end
      return tree
   end

   local function is_read(message)
      return message.kind == "data" and message.seen > 0 and (rds_payload or rds_port:get_dissector(message.dport))
   end

   -- The bytes of the message, where they are needed.
   local function show_message(message, tvb, root, wanted)
      if not (wanted or message.findings or is_read(message)) then
         return nil
      end
      local range = bytes_of(message, tvb)
      if wanted or message.findings then
         add_findings(add_message_tree(message, root, range), message)
      end
      return range
   end

   -- Last of all: in 4.0, what other dissectors throw takes with it all that was still to be shown of the frame.
   local function hand_on(messages, ranges, pinfo, root)
      for index, message in ipairs(messages) do
         if ranges[index] and is_read(message) then
            local payload = ranges[index](HEADER_BYTES):tvb()
            local dissector = rds_port:get_dissector(message.dport)
            if dissector then
               hand_over(call_dissector, dissector, payload, pinfo, root)
            else
               hand_over(try_table, rds_payload, "", payload, pinfo, root)
            end
         end
      end
   end

   -- What is no message by itself: segments and fragments on their way, and the ends of a stream.
   local function show_part(part, root)
      local tree = root:add(rds_part)
      local stream = part.stream
      if not (part.event or part.findings) then
         -- Most frames are such: one line has to do.
         generated(tree, "rds.stream", stream.number)
         return
      end
      add_stream_fields(tree, stream, part.direction)
      if part.event then
         tree:append_text(", " .. part.event)
         generated(tree, "rds.stream.event", part.event)
         generated(tree, "rds.stream.a", stream.a.host .. "/" .. stream.a.port)
         generated(tree, "rds.stream.b", stream.b.host .. "/" .. stream.b.port)
         generated(tree, "rds.stream.from_start", stream.from_start)
      end
      add_findings(tree, part)
   end

   local function show_acknowledgement(ack, frame, root)
      local tree = root:add(rds_part)
      generated(tree, "rds.acknowledges", ack.last.frame.number)
      generated(tree, "rds.acknowledges.count", ack.count)
      generated(tree, "rds.ack_time", span_of_time(frame.time - ack.last.frame.time))
   end

   local function show_operation(operation, root)
      local tree = root:add(rds_rdma)
      tree:set_generated()
      tree:append_text(format(", %s of %s: %s", operation.kind, plural(operation.length, "byte"), operation.status))
      generated(tree, "rds.kind", operation.kind)
      add_stream_fields(tree, operation.stream, operation.direction)
      generated(tree, "rds.frame", operation.frame.number)
      generated(tree, "rds.first_frame", operation.first.number)
      generated(tree, "rds.rdma.id", operation.id)
      generated(tree, "rds.rdma.kind", operation.kind)
      generated(tree, "rds.rdma.va", bytes_range(operation.va))
      for _, operand in ipairs(operation.operands or {}) do
         generated(tree, "rds.rdma.operand", bytes_range(operand))
      end
      hidden(tree, "rds.rdma.psn", uint64(operation.psn))
      generated(tree, "rds.rdma.rkey", operation.rkey)
      generated(tree, "rds.rdma.length", operation.length)
      generated(tree, "rds.rdma.seen", operation.seen)
      generated(tree, "rds.rdma.status", operation.status)
   end

   -- Fields of a structure of RDMA-CM; addresses are text, as filters compare them.
   local function add_structure(tree, layout, raw, range, v4)
      for _, row in ipairs(layout) do
         local name, offset, size, kind = row[1], row[2], row[3], row[4]
         if kind == "address" then
            local address = sub(raw, offset + 1, offset + size)
            add(tree, name, range(offset, size), address_text(v4 and sub(address, -4) or address))
         else
            add(tree, name, range(offset, size))
         end
      end
   end

   local function show_cm(message, root)
      local ip, private = message.ip or "", message.private or ""
      local data = #ip + #private > 0 and ip .. private or message.body
      local range = ByteArray.new(data, true):tvb("RDS private data")()
      local tree = root:add(rds_cm, range)
      tree:append_text(", " .. cm_words(message))
      generated(tree, "rds.kind", "cm")
      generated(tree, "rds.cm.message", message.name)
      hidden(tree, "rds.cm.transaction", bytes_range(message.transaction))
      hidden(tree, "rds.cm.bytes", bytes_range(message.body))
      add_ends(tree, "ib", message.src, message.dst)
      if message.stream then
         generated(tree, "rds.stream", message.stream.number)
      end
      if message.problem then
         generated(tree, "rds.cm.problem", message.problem)
      end
      if #ip > 0 then
         local branch = add(tree, "rds.cm.ip", range(0, #ip)) or tree
         add_structure(branch, CM_IP, ip, range(0, #ip), floor(byte(ip, 2) / 16) == 4)
      end
      if #private > 0 then
         local part = range(#ip, #private)
         local branch = add(tree, "rds.cm", part) or tree
         add_structure(branch, CM_PRIVATE[message.version].fields, private, part)
      end
      if message.reject then
         generated(tree, "rds.cm.code", reject_code(message.reject))
      end
      add_findings(tree, message)
   end

   -- Dissectors by name, once somebody asked for them: there are none yet while this script is read.
   local handles = setmetatable({}, {
      __index = function(known, name)
         known[name] = Dissector.get(name)
         return known[name]
      end,
   })

   -- Whether a filter, column or tap asks for a protocol or any of its fields.
   local function is_wanted(root, name)
      return referenced(root, handles[name])
   end

   -- Most frames hold but a part of a message: nothing is asked of Wireshark that need not be. Its columns keep what TCP or
   -- InfiniBand say there. That nobody looks at a new frame holds for the next one, too: where a filter, column or tap is
   -- added, Wireshark dissects the frames again that it had.
   local function show_only_part(part, root)
      local wanted = referenced(root, handles.rds)
      local asked = wanted or referenced(root, handles.rds_part)
      part_unwanted = not (asked or visited)
      if asked then
         add = wanted and root.visible and add_always or add_referenced
         show_part(part, root)
      end
   end

   local function show_parts(parts, root, wanted)
      wanted = wanted or is_wanted(root, "rds_part")
      for _, part in ipairs(parts) do
         if wanted or part.findings then
            show_part(part, root)
         end
      end
   end

   local function show_messages(messages, tvb, pinfo, root, wanted)
      local lines, ranges = {}, {}
      if not wanted and tvb then -- "Protocol Hierarchy" counts it, though nothing asks for it
         root:add(rds, tvb)
      elseif not wanted then
         root:add(rds)
      end
      for index, message in ipairs(messages) do
         lines[index] = headline(message)
         ranges[index] = show_message(message, tvb, root, wanted)
      end
      local columns = columns_of(pinfo)
      columns.protocol = "RDS"
      columns.info = concat(lines, "; ")
      return ranges
   end

   local function show_setup(messages, pinfo, root)
      local columns = columns_of(pinfo)
      columns.protocol = "RDS"
      for _, message in ipairs(messages) do
         columns.info = cm_words(message)
         show_cm(message, root)
      end
   end

   local function show_acks_and_operations(frame, root)
      for _, ack in ipairs(frame.acks or {}) do
         show_acknowledgement(ack, frame, root)
      end
      for _, operation in ipairs(frame.operations or {}) do
         show_operation(operation, root)
      end
   end

   -- Show what is known of a frame. `tvb` is what messages of this frame lie in.
   function show_frame(frame, tvb, pinfo, root)
      if frame.part then
         show_only_part(frame.part, root)
         return
      end
      local wanted = is_wanted(root, "rds") -- in a tree that is visible, everything is
      add = wanted and root.visible and add_always or add_referenced
      local messages, cm, parts = frame.messages, frame.cm, frame.parts
      local ranges = messages and show_messages(messages, tvb, pinfo, root, wanted)
      if cm then
         show_setup(cm, pinfo, root)
      end
      if parts then
         show_parts(parts, root, wanted)
      end
      if (frame.acks or frame.operations) and (wanted or is_wanted(root, "rds_rdma")) then
         show_acks_and_operations(frame, root)
      end
      if ranges then
         hand_on(messages, ranges, pinfo, root)
      end
   end
end
