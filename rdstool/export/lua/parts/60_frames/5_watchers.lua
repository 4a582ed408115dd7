-- The watchers take their places, and leave them.

local at_ip = true
do
   local MOST_LOST_AT_IP, MOST_LOST_CALLS = 5, 80
   local lost_calls, depth = 0, 0 -- times a watcher was left, and how many are at work
   local watched = {} -- a list of table, pattern and Wireshark's own dissector

   -- Take away the watchers at `place`, or put them there.
   local function put_watchers(place, there)
      for _, each in ipairs(watched) do
         if each.place == place then
            DissectorTable.get(each.table_name):add(each.pattern, there and each.watcher or each.original)
         end
      end
   end

   function put_inside(why)
      inside = why
      put_watchers("inside", why)
   end

   local function stop_watching()
      watching = false
      put_inside(nil)
      put_watchers("link", false)
      io.stderr:write(
         "rds: Wireshark's dissectors gave up ",
         lost_calls,
         " frames, most of them cut short: RDS is not looked for from frame ",
         current,
         " on, until Wireshark is started again (capture whole frames, or filter for RDS)\n"
      )
   end

   -- A new frame, while watchers seem to be at work: they were left.
   local function count_lost_calls()
      lost_calls, depth = lost_calls + depth, 0
      if at_ip and lost_calls > MOST_LOST_AT_IP then
         at_ip = false
         put_watchers("ip", false)
         put_inside("packets")
      elseif watching and lost_calls > MOST_LOST_CALLS then
         stop_watching()
      end
   end

   -- Wireshark's own dissector is not in its table any more once "Reload Lua Plugins" has taken away the watcher that
   -- was there. Then it is found by its name, if it has one.
   local function watcher(name, description, table_name, pattern, own_name, watch, place)
      local dissectors = DissectorTable.get(table_name)
      local original = dissectors and (dissectors:get_dissector(pattern) or own_name and Dissector.get(own_name))
      if not original then
         return
      end
      local proto = Proto(name, description)
      function proto.dissector(tvb, pinfo, tree)
         local number = number_of(pinfo)
         if number > newest then
            visited, newest = false, number
         else
            visited = is_visited(pinfo)
         end
         if number ~= current then
            if depth > 0 then
               lost_frames[current] = true
               count_lost_calls()
            end
            current, taken = number, false
         end
         depth = depth + 1
         local used
         if switched_on == false then
            used = pass_on(original, tvb, pinfo, tree)
         else
            used = watch(tvb, pinfo, tree, original)
         end
         depth = depth - 1
         return used
      end
      insert(watched, {
         table_name = table_name,
         pattern = pattern,
         original = original,
         watcher = proto,
         place = place,
      })
      dissectors:add(pattern, proto)
   end

   local RAW = wtap_encaps.RAW_IP
   watcher("rds_watch_ip", "IP, watched for RDS", "ethertype", 0x0800, "ip", watch_ip, "ip")
   watcher("rds_watch_ip6", "IPv6, watched for RDS", "ethertype", 0x86dd, "ipv6", watch_ip, "ip")
   watcher("rds_watch_raw", "IP without a link, watched for RDS", "wtap_encap", RAW, "raw_ip", watch_ip, "ip")
   watcher("rds_watch_tcp", "TCP, watched for RDS", "ip.proto", TCP, "tcp", watch_tcp, "inside")
   watcher("rds_watch_roce2", "RoCE v2, watched for RDS", "udp.port", ROCE_PORT, nil, watch_roce_v2, "inside")
   watcher("rds_watch_roce1", "RoCE v1, watched for RDS", "ethertype", 0x8915, nil, watch_roce_v1, "link")
   watcher("rds_watch_ib", "InfiniBand, watched for RDS", "erf.types.type", 25, "infiniband_link", watch_native, "link")
end
