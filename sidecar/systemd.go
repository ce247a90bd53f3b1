package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// firstFD is the first descriptor that a service manager passes on.
const firstFD = 3

// inherit returns the listeners of socket activation (sd_listen_fds(3)), nil
// where there are none. The descriptor called "admin" is ADMIN_ADDR's, or the
// second where none has that name.
func inherit(getenv func(string) string) (main, admin net.Listener, err error) {
	if getenv("LISTEN_FDS") == "" || getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil, nil // meant for another process, or for none
	}
	count, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || count < 1 || count > 2 {
		return nil, nil, fmt.Errorf("LISTEN_FDS=%q: want 1 or 2 sockets", getenv("LISTEN_FDS"))
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	var listeners []net.Listener
	adminAt := 1
	for i := range count {
		file := os.NewFile(uintptr(firstFD+i), "socket")
		listener, err := net.FileListener(file) // its own descriptor, closed on exec
		file.Close()
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, nil, fmt.Errorf("socket %d of LISTEN_FDS: %w", i+1, err)
		}
		listeners = append(listeners, listener)
		if i < len(names) && names[i] == "admin" {
			adminAt = i
		}
	}
	for i, l := range listeners {
		if i == adminAt {
			admin = l
		} else {
			main = l
		}
	}
	if main == nil {
		admin.Close()
		return nil, nil, fmt.Errorf("LISTEN_FDNAMES=%q: no socket for the API", getenv("LISTEN_FDNAMES"))
	}
	return main, admin, nil
}

// A systemd tells the service manager how the program fares (sd_notify(3)). The
// nil one tells nobody. It is safe for concurrent use.
type systemd struct {
	conn     net.Conn
	watchdog time.Duration // between signs of life; 0 = none are asked for
}

// newSystemd returns nil where no service manager listens.
func newSystemd(getenv func(string) string) (*systemd, error) {
	name := getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"}) // net knows the @ of abstract names
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%q: %w", name, err)
	}
	n := &systemd{conn: conn}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if pid := getenv("WATCHDOG_PID"); err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond / 2
	}
	return n, nil
}

// tell sends assignments. A manager that does not listen is no reason to fail.
func (n *systemd) tell(assignments ...string) {
	if n != nil {
		_, _ = n.conn.Write([]byte(strings.Join(assignments, "\n")))
	}
}

// ready says that connections are taken.
func (n *systemd) ready(status string) { n.tell("READY=1", "STATUS="+status) }

// reloading announces a reload; ready ends it. systemd wants to know when it
// began, on the monotonic clock of the machine.
func (n *systemd) reloading() {
	n.tell("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(monotonic().Microseconds(), 10))
}

// stopping says that the end has begun, and may take as long as that.
func (n *systemd) stopping(longest time.Duration) {
	n.tell("STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC="+strconv.FormatInt(longest.Microseconds(), 10))
}

// statusEvery is how often the status line is renewed.
const statusEvery = 10 * time.Second

// report tells the status regularly, and the watchdog that there is life: status
// takes the locks that requests take. It returns when stop is closed.
func (n *systemd) report(stop <-chan struct{}, status func() string) {
	if n == nil {
		return
	}
	every := statusEvery
	if n.watchdog > 0 {
		every = min(every, n.watchdog)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			lines := []string{"STATUS=" + status()}
			if n.watchdog > 0 {
				lines = append(lines, "WATCHDOG=1")
			}
			n.tell(lines...)
		}
	}
}

func (n *systemd) close() {
	if n != nil {
		_ = n.conn.Close()
	}
}

// statusLine is what `systemctl status` shows.
func (s *server) statusLine() string {
	word := "serving"
	if s.guard.Draining() {
		word = "draining"
	}
	return fmt.Sprintf("%s: %d waiting, %d in flight", word, s.limits.Waiting(), s.limits.InFlight())
}
