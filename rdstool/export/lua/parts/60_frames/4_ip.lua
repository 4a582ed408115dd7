-- IP: its watcher. Addresses and ports lie in one string of bytes there.

local ROCE_PORT = 4791
local inside -- why the watchers at TCP and UDP are there: "links", "packets", or nil where they are not
local put_inside -- in 5_watchers.lua
local watch_ip
do
   local IPV6_BYTES, UDP_BYTES = 40, 8
   local HOP_BY_HOP, FRAGMENT = 0, 44
   local CARRY_NO_IP = { [1] = true, [2] = true, [58] = true, [89] = true, [103] = true, [112] = true }

   local read_all = false -- at once what was captured of a frame: where it follows one of RoCE, to which all is of use

   local CARRY_IP = { [4790] = true, [6635] = true } -- UDP ports: VXLAN that names what it carries, MPLS

   -- Where the payload of an IP packet begins and ends, its protocol, source and destination. No protocol: no IP.
   local function read_ip(head)
      local first, _, l1, l0, p1, p0, f1, f0, _, protocol = byte(head, 1, 10)
      if #head >= IPV4_BYTES and first >= 0x45 and first < 0x50 then
         local fragment = f1 % 64 > 0 or f0 > 0
         return (first - 0x40) * 4, l1 * 256 + l0, fragment and FRAGMENT or protocol, sub(head, 13, 16), sub(head, 17, 20)
      elseif #head > IPV6_BYTES and first >= 0x60 and first < 0x70 then
         if f1 == HOP_BY_HOP then
            local behind = byte(head, IPV6_BYTES + 1)
            f1 = CARRY_NO_IP[behind] and behind or HOP_BY_HOP
         end
         return IPV6_BYTES, IPV6_BYTES + p1 * 256 + p0, f1, sub(head, 9, 24), sub(head, 25, 40)
      end
      return 0, 0, nil
   end

   -- What is not known by its route. `head` has the first bytes of `tvb`.
   local function watch_inside_ip(head, tvb, pinfo, tree, original)
      if inside == "links" then
         put_inside(nil)
      end
      local at, stop, protocol, src, dst = read_ip(head)
      taken = false
      if stop > at and protocol == TCP then
         taken = true
         return watch_segment(head, at, stop, host_of(src), host_of(dst), tvb, pinfo, tree, original)
      elseif stop > at and protocol == UDP then
         local p, port, s, s0 = byte(head, at + 3, at + 6)
         if #head >= at + UDP_BYTES and p * 256 + port == ROCE_PORT then
            taken = true
            local udp = s * 256 + s0
            stop = (udp >= UDP_BYTES and min(stop, at + udp) or stop) - ICRC_BYTES
            local packet = read_packet(tvb, head, at + UDP_BYTES, stop, host_of(src), host_of(dst))
            if at == IPV4_BYTES then
               remember_flow(head, packet)
            end
            return watch_packet(packet, tvb, pinfo, tree, original)
         elseif port and CARRY_IP[p * 256 + port] and not inside then
            put_inside("packets")
         end
      elseif protocol and not (CARRY_NO_IP[protocol] or inside) then
         put_inside("packets")
      end
      return pass_on(original, tvb, pinfo, tree)
   end

   -- Links that carry IP under a name of their own have the watchers at TCP and UDP, until one is seen that does not.
   function watch_ip(tvb, pinfo, tree, original)
      local saved, saved_done = taken, done
      local head, size
      if read_all then
         head = raw_bytes(tvb)
         size = #head
      else
         size = captured_len(tvb)
         head = raw_bytes(tvb, 0, size < HEAD_BYTES and size or HEAD_BYTES)
      end
      local route = not visited and routes[sub(head, ROUTE_FROM, ROUTE_TO)]
      local used
      if route and route.take(route, head, size, tvb, pinfo) then
         taken, done, read_all = true, false, route.read_all
         used = pass_on(original, tvb, pinfo, tree)
         if not done and shown[current] then
            route.show(tvb, head, IPV4_BYTES, pinfo, tree)
         end
         segment, done = nil, saved_done
      else
         read_all = false
         used = watch_inside_ip(head, tvb, pinfo, tree, original)
      end
      taken = saved
      return used
   end
end
