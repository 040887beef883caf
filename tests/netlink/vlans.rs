//! VLAN
