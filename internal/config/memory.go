package config

import (
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

// memoryLimit is the memory this process may use, in bytes: the least of
// GOMEMLIMIT, the limits of its cgroups and the machine's memory; 1 GiB where
// nothing tells. It is read once, because BoundHeap changes what is read.
var memoryLimit = sync.OnceValue(func() int64 {
	least := min(debug.SetMemoryLimit(-1), cgroupLimit(), machineMemory()) // −1 only reads
	if least == math.MaxInt64 {
		return 1 << 30
	}
	return least
})

// heapOf is the part of a cgroup's memory that the heap may fill, in bytes. The rest is
// for what the runtime does not count: SQLite's pages, the kernel's buffers, and what
// is allocated while it collects.
func heapOf(limit int64) int64 {
	const least = 48 << 20
	return limit - min(limit/4, max(limit/10, least))
}

// BoundHeap makes the collector work harder before the heap reaches the limit of the
// cgroup, unless GOMEMLIMIT says when. Without it garbage alone could take as much
// as what lives. It returns the bound in bytes, 0 = none.
func BoundHeap() int64 {
	total := memoryLimit()
	if debug.SetMemoryLimit(-1) != math.MaxInt64 || cgroupLimit() > total {
		return 0
	}
	bound := heapOf(total)
	debug.SetMemoryLimit(bound)
	return bound
}

// cgroupLimit is the least limit of the cgroups that this process is in (version 2 and
// 1), in bytes; the largest number where there is none.
func cgroupLimit() int64 {
	least := int64(math.MaxInt64)
	membership, _ := os.ReadFile("/proc/self/cgroup")
	for _, file := range cgroupFiles("/sys/fs/cgroup", string(membership)) {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && n > 0 {
			least = min(least, n)
		}
	}
	return least
}

// cgroupFiles lists the files that may hold a limit. membership is what
// /proc/self/cgroup says: a group and all above it bound the process. In a container
// the root is its own group, and the path may lead nowhere.
func cgroupFiles(root, membership string) []string {
	var files []string
	add := func(group string, names ...string) {
		for ; ; group = path.Dir(group) {
			for _, name := range names {
				files = append(files, filepath.Join(root, group, name))
			}
			if group == "/" {
				return
			}
		}
	}
	version1 := func(group string) { add(group, "memory.limit_in_bytes") }
	// The hierarchies of version 1 are folders of the root.
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) < 3 || !path.IsAbs(parts[2]):
		case parts[1] == "":
			add(path.Clean(parts[2]), "memory.max", "memory.high")
		case strings.Contains(","+parts[1]+",", ",memory,"):
			version1(path.Join("/memory", parts[2]))
		}
	}
	add("/", "memory.max", "memory.high")
	version1("/memory")
	return files
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
