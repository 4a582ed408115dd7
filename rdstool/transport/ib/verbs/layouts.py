"""Structures of librdmacm and libibverbs, as their headers have them (``rdma/rdma_cma.h``, ``infiniband/verbs.h``).

Programs are compiled against them, so they do not change within ``librdmacm.so.1`` and ``libibverbs.so.1``.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, c_int, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p


class Gid(Structure):
    """``union ibv_gid``."""

    _fields_ = [("words", c_uint64 * 2)]


class Route(Structure):
    """``struct rdma_route``."""

    _fields_ = [
        ("source", c_uint64 * 16),
        ("destination", c_uint64 * 16),
        ("sgid", Gid),
        ("dgid", Gid),
        ("pkey", c_uint16),
        ("path_rec", c_void_p),
        ("num_paths", c_int),
    ]


class Channel(Structure):
    """``struct rdma_event_channel``."""

    _fields_ = [("fd", c_int)]


class Id(Structure):
    """``struct rdma_cm_id``."""

    _fields_ = [
        ("verbs", c_void_p),
        ("channel", POINTER(Channel)),
        ("context", c_void_p),
        ("qp", c_void_p),
        ("route", Route),
        ("ps", c_int),
        ("port_num", c_uint8),
        ("event", c_void_p),
        ("send_cq_channel", c_void_p),
        ("send_cq", c_void_p),
        ("recv_cq_channel", c_void_p),
        ("recv_cq", c_void_p),
        ("srq", c_void_p),
        ("pd", c_void_p),
        ("qp_type", c_int),
    ]


class Parameters(Structure):
    """``struct rdma_conn_param``."""

    _fields_ = [
        ("private_data", c_void_p),
        ("private_data_len", c_uint8),
        ("responder_resources", c_uint8),
        ("initiator_depth", c_uint8),
        ("flow_control", c_uint8),
        ("retry_count", c_uint8),
        ("rnr_retry_count", c_uint8),
        ("srq", c_uint8),
        ("qp_num", c_uint32),
    ]


class Event(Structure):
    """``struct rdma_cm_event``."""

    _fields_ = [
        ("id", POINTER(Id)),
        ("listen_id", POINTER(Id)),
        ("event", c_int),
        ("status", c_int),
        ("parameters", Parameters),
    ]


class GlobalRoute(Structure):
    """``struct ibv_global_route``."""

    _fields_ = [
        ("dgid", Gid),
        ("flow_label", c_uint32),
        ("sgid_index", c_uint8),
        ("hop_limit", c_uint8),
        ("traffic_class", c_uint8),
    ]


class AddressHandle(Structure):
    """``struct ibv_ah_attr``."""

    _fields_ = [
        ("grh", GlobalRoute),
        ("dlid", c_uint16),
        ("sl", c_uint8),
        ("src_path_bits", c_uint8),
        ("static_rate", c_uint8),
        ("is_global", c_uint8),
        ("port_num", c_uint8),
    ]


class QueuePairAttributes(Structure):
    """``struct ibv_qp_attr``: what a queue pair needs to be moved on."""

    _fields_ = [
        ("qp_state", c_int),
        ("cur_qp_state", c_int),
        ("path_mtu", c_int),
        ("path_mig_state", c_int),
        ("qkey", c_uint32),
        ("rq_psn", c_uint32),
        ("sq_psn", c_uint32),
        ("dest_qp_num", c_uint32),
        ("qp_access_flags", c_uint32),
        ("cap", c_uint32 * 5),
        ("ah_attr", AddressHandle),
        ("alt_ah_attr", AddressHandle),
        ("pkey_index", c_uint16),
        ("alt_pkey_index", c_uint16),
        ("en_sqd_async_notify", c_uint8),
        ("sq_draining", c_uint8),
        ("max_rd_atomic", c_uint8),
        ("max_dest_rd_atomic", c_uint8),
        ("min_rnr_timer", c_uint8),
        ("port_num", c_uint8),
        ("timeout", c_uint8),
        ("retry_cnt", c_uint8),
        ("rnr_retry", c_uint8),
        ("alt_port_num", c_uint8),
        ("alt_timeout", c_uint8),
        ("rate_limit", c_uint32),
    ]


class MemoryRegion(Structure):
    """``struct ibv_mr``."""

    _fields_ = [
        ("context", c_void_p),
        ("pd", c_void_p),
        ("addr", c_void_p),
        ("length", c_size_t),
        ("handle", c_uint32),
        ("lkey", c_uint32),
        ("rkey", c_uint32),
    ]
