package config

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryLimit is the memory this process may use, in bytes: the least of
// GOMEMLIMIT, the cgroup's limit (v2, then v1) and the machine's memory;
// 1 GiB where nothing tells.
func memoryLimit() int64 {
	least := debug.SetMemoryLimit(-1) // −1 only reads
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && n > 0 {
			least = min(least, n)
		}
	}
	least = min(least, machineMemory())
	if least == math.MaxInt64 {
		return 1 << 30
	}
	return least
}

// machineMemory reads MemTotal, in kB as Linux gives it.
func machineMemory() int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return math.MaxInt64
	}
	_, after, _ := strings.Cut(string(data), "MemTotal:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return math.MaxInt64
	}
	kB, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	return kB << 10
}
