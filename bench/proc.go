//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// server is a server under test: the leader of a process group of its own, and
// where it listens.
type server struct {
	name    string
	network string
	address string
	cmd     *exec.Cmd
	behind  *server // another that this one asks
	core    int     // pid of onewake's second process
	log     string
	done    chan struct{} // closed once it has ended
}

// running are the servers to end, whatever happens.
var running struct {
	sync.Mutex
	all map[*server]bool
}

// startServer starts a server and waits until it answers.
func startServer(name, network, address string, argv []string) (*server, error) {
	s, err := launch(name, network, address, argv)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; {
		if err = s.ask(); err == nil {
			return s, nil
		}
		select {
		case <-s.done:
			err = fmt.Errorf("%s ended: %s", name, s.lastWords())
		default:
		}
		if time.Since(began) > 10*time.Second {
			err = fmt.Errorf("%s does not answer: %w: %s", name, err, s.lastWords())
		} else if s.alive() {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		s.stop()
		return nil, err
	}
}

// launch starts a server; its standard error goes to a file.
func launch(name, network, address string, argv []string) (*server, error) {
	log, err := os.CreateTemp(tmp, "log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{name: name, network: network, address: address, log: log.Name(), done: make(chan struct{})}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Stderr = log
	s.cmd.Dir = "/"
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	running.Lock()
	defer running.Unlock()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if running.all == nil {
		running.all = make(map[*server]bool)
	}
	running.all[s] = true
	go func() {
		// It is not reaped yet: stop ends its group before, so that no other
		// can have got its number.
		for unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		close(s.done)
	}()
	return s, nil
}

func (s *server) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// stop ends a server, at first politely, and what is left of its group.
func (s *server) stop() {
	if s == nil {
		return
	}
	running.Lock()
	had := running.all[s]
	delete(running.all, s)
	running.Unlock()
	if !had {
		return
	}
	if s.alive() {
		s.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-s.done:
		case <-time.After(5 * time.Second):
		}
	}
	s.kill()
	os.Remove(s.log)
}

// stopAll ends all servers at once, for an end in the middle.
func stopAll() {
	running.Lock()
	defer running.Unlock()
	for s := range running.all {
		s.cmd.Process.Signal(unix.SIGTERM)
	}
	for s := range running.all {
		select {
		case <-s.done:
		case <-time.After(2 * time.Second):
		}
		s.kill()
		delete(running.all, s)
	}
}

// kill ends the process group and reaps its leader.
func (s *server) kill() {
	unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL)
	s.cmd.Wait()
}

func (s *server) lastWords() string {
	b, _ := os.ReadFile(s.log)
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-500):])
}

// ask makes one request, on a connection of its own, and wants 200.
func (s *server) ask() error {
	_, err := s.fetch("/")
	return err
}

// fetch gives the whole of an answer with its head.
func (s *server) fetch(path string) ([]byte, error) {
	c, err := net.DialTimeout(s.network, s.address, time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(c)
	if err == nil && !(len(b) > 12 && string(b[9:12]) == "200") {
		err = fmt.Errorf("answer %.60q", b)
	}
	return b, err
}

var corePID = regexp.MustCompile(`\bcore=(\d+)`)

// findCore reads the pid of onewake's core from its start record.
func (s *server) findCore() error {
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(s.log)
		if err != nil {
			return err
		}
		if m := corePID.FindSubmatch(b); m != nil {
			s.core, err = strconv.Atoi(string(m[1]))
			return err
		}
	}
	return errors.New("no start record that names the core")
}

// pids are the server's own processes: of onewake both.
func (s *server) pids() []int {
	if s.core != 0 {
		return []int{s.cmd.Process.Pid, s.core}
	}
	return []int{s.cmd.Process.Pid}
}

// cpuTime is what a process has used of CPUs, its reaped children not counted.
// It is the sum of utime and stime in /proc/PID/stat, in nanoseconds instead
// of ticks (clock_getcpuclockid(3)).
func cpuTime(pid int) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// ticks is what all CPUs have done so far, and what of it was nothing, in
// ticks (proc_stat(5)).
func ticks() (all, idle float64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, w := range strings.Fields(line) {
		n, _ := strconv.ParseFloat(w, 64)
		all += n
		if i == 4 {
			idle = n
		}
	}
	return all, idle
}

// treeTime is what the processes of a server and of those behind it have used
// of CPUs, their workers counted, and what the commands have that they reaped,
// the latter in ticks. Some servers let the system reap commands; then nobody
// is told what these have used.
func (s *server) treeTime() (own, commands time.Duration) {
	in := make(map[int]bool)
	for x := s; x != nil; x = x.behind {
		in[x.cmd.Process.Pid] = true
	}
	parent, reaped := make(map[int]int), make(map[int]time.Duration)
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// The name, in parentheses, may hold anything.
		if f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])); len(f) > 14 {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			parent[pid], _ = strconv.Atoi(f[1])
			for _, ticks := range f[13:15] { // cutime, cstime
				n, _ := strconv.Atoi(ticks)
				reaped[pid] += time.Duration(n) * (time.Second / 100)
			}
		}
	}
	for found := true; found; {
		found = false
		for pid, p := range parent {
			if in[p] && !in[pid] {
				in[pid], found = true, true
			}
		}
	}
	for pid := range in {
		own += cpuTime(pid)
		commands += reaped[pid]
	}
	return own, commands
}

// memory is the proportional memory of the server's processes in bytes. Where
// it cannot be read (a core cannot be looked into, but by root) it is the
// resident memory, which counts shared pages in full.
func (s *server) memory() (bytes float64, proportional bool, err error) {
	proportional = true
	for _, pid := range s.pids() {
		n, err := fieldOf(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if err != nil {
			proportional = false
			break
		}
		bytes += n
	}
	if proportional {
		return bytes, true, nil
	}
	bytes = 0
	for _, pid := range s.pids() {
		n, err := fieldOf(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		if err != nil {
			return 0, false, err
		}
		bytes += n
	}
	return bytes, false, nil
}

// files is how many descriptors the server's processes hold, -1 where they may
// not be looked at.
func (s *server) files() int {
	n := 0
	for _, pid := range s.pids() {
		list, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(list) == 0 {
			return -1
		}
		n += len(list)
	}
	return n
}

// fieldOf reads a number of kB from a file of /proc.
func fieldOf(file, name string) (float64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, err := strconv.ParseFloat(f[1], 64)
			return n * 1024, err
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

// raiseFiles allows as many descriptors as may be.
func raiseFiles() uint64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	r.Cur = r.Max
	unix.Setrlimit(unix.RLIMIT_NOFILE, &r)
	return r.Cur
}
