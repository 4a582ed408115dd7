-- What a capture adds up to: `tshark -q -z rds`, or Statistics > RDS in Wireshark.

do
   -- A window for text is 75 characters wide.
   local HEAD = "  %-12s %10s %14s %8s %10s\n"
   local ROW = "  %-12s %10d %14.0f %8d %10d\n"

   local function new_sums()
      return { order = {}, rows = {} }
   end

   local function count(sums, message)
      local name = message.stream.pair.name .. "\n" .. message.kind
      local row = sums.rows[name]
      if not row then
         row = { kind = message.kind, connection = message.stream.pair.name, messages = 0, bytes = 0, resent = 0 }
         row.incomplete = 0
         sums.rows[name] = row
         insert(sums.order, name)
      end
      row.messages = row.messages + 1
      row.bytes = row.bytes + message.length
      row.resent = row.resent + (has(message.flags, RETRANSMITTED) and 1 or 0)
      row.incomplete = row.incomplete + (message.complete and 0 or 1)
   end

   local function sums_text(sums)
      table.sort(sums.order)
      local lines, connection = { "RDS messages by connection and kind\n" }, nil
      for _, name in ipairs(sums.order) do
         local row = sums.rows[name]
         if row.connection ~= connection then
            connection = row.connection
            insert(lines, "\n" .. connection .. "\n")
            insert(lines, format(HEAD, "kind", "messages", "bytes", "resent", "not whole"))
         end
         insert(lines, format(ROW, row.kind, row.messages, row.bytes, row.resent, row.incomplete))
      end
      return concat(lines)
   end

   -- A tap that shows its sums through `show(text)` whenever Wireshark asks for them.
   local function start(show)
      local sums = new_sums()
      local tap = Listener.new("frame")
      function tap.packet(pinfo)
         local frame = shown[pinfo.number]
         for _, message in ipairs(frame and frame.messages or {}) do
            count(sums, message)
         end
      end
      function tap.draw()
         show(sums_text(sums))
      end
      function tap.reset()
         sums = new_sums()
      end
      return tap
   end

   register_stat_cmd_arg("rds", function()
      start(print)
   end)

   if gui_enabled() then
      register_menu("RDS", function()
         local window = TextWindow.new("RDS messages")
         local tap = start(function(text)
            window:set(text)
         end)
         window:set_atclose(function()
            tap:remove()
         end)
         retap_packets()
      end, MENU_STAT_UNSORTED)
   end
end
