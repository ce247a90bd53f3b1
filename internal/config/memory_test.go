package config

import (
	"slices"
	"testing"
)

func TestHeapOf(t *testing.T) {
	for limit, want := range map[int64]int64{64: 48, 256: 208, 1024: 921, 10240: 9216} {
		if got := heapOf(limit<<20) >> 20; got != want {
			t.Errorf("of %d MiB: %d MiB, want %d", limit, got, want)
		}
	}
}

func TestCgroupFiles(t *testing.T) {
	for _, c := range []struct {
		name, membership string
		want, no         []string
	}{
		{
			"version 2, a unit of systemd", "0::/system.slice/sidecar.service\n",
			[]string{"/cg/system.slice/sidecar.service/memory.max", "/cg/system.slice/sidecar.service/memory.high", "/cg/system.slice/memory.max", "/cg/memory.max"},
			nil,
		},
		{"version 2, a container", "0::/\n", []string{"/cg/memory.max"}, nil},
		{"version 2, a container that sees out of itself", "0::/../../x\n", []string{"/cg/memory.max"}, nil},
		{
			"version 1", "4:memory:/docker/abc\n3:cpuset:/other\n0::/\n",
			[]string{"/cg/memory/docker/abc/memory.limit_in_bytes", "/cg/memory/memory.limit_in_bytes"},
			[]string{"/cg/other/memory.max"},
		},
		{"version 1, joint controllers", "7:cpu,memory:/a\n", []string{"/cg/memory/a/memory.limit_in_bytes"}, nil},
		{"nonsense", "x\n::\n0:memory:relative\n", []string{"/cg/memory.max", "/cg/memory/memory.limit_in_bytes"}, nil},
		{"nothing", "", []string{"/cg/memory.max", "/cg/memory/memory.limit_in_bytes"}, nil},
	} {
		got := cgroupFiles("/cg", c.membership)
		for _, file := range c.want {
			if !slices.Contains(got, file) {
				t.Errorf("%s: %s is not among %v", c.name, file, got)
			}
		}
		for _, file := range c.no {
			if slices.Contains(got, file) {
				t.Errorf("%s: %s is among %v", c.name, file, got)
			}
		}
	}
}
