package spec_test

import "net/netip"

type netipAddr = netip.Addr

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
