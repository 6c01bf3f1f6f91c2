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
	"regexp"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// server is a server under test: the leader of a process group of its own, and
// where it listens.
type server struct {
	network string
	address string
	argv    []string
	config  func(address string) string // a file whose name is the last argument, for a port that start finds
	behind  *server                     // another that this one asks

	cmd  *exec.Cmd // nil before start
	core int       // pid of onewake's second process, else 0
	log  string    // file of standard error
}

// running are the servers to end, whatever happens.
var running struct {
	sync.Mutex
	all []*server
}

// missing names a program that is not installed, if there is one.
func (s *server) missing() string {
	for ; s != nil; s = s.behind {
		if _, err := exec.LookPath(s.argv[0]); err != nil {
			return s.argv[0]
		}
	}
	return ""
}

// ready starts a server that speaks HTTP, waits until it answers and has it do
// what it does a few times.
func (s *server) ready() error {
	if s.cmd != nil {
		return nil
	}
	if err := s.start(); err != nil {
		return err
	}
	if err := s.await(func() error { return s.ask("/") }); err != nil {
		return err
	}
	_, _, err := s.load(8, 0, 200*time.Millisecond)
	return err
}

var corePID = regexp.MustCompile(`\bcore=(\d+)`)

// start starts a server and what is behind it, and learns the pid of onewake's
// core from its start record.
func (s *server) start() error {
	if s.cmd != nil {
		return nil
	}
	if s.behind != nil {
		if err := s.behind.start(); err != nil {
			return err
		}
	}
	if err := s.launch(); err != nil || s.argv[0] != onewake {
		return err
	}
	return s.await(func() error {
		b, _ := os.ReadFile(s.log)
		m := corePID.FindSubmatch(b)
		if m == nil {
			return errors.New("no start record")
		}
		s.core, _ = strconv.Atoi(string(m[1]))
		return nil
	})
}

// await tries until it works.
func (s *server) await(try func() error) error {
	for began := time.Now(); ; time.Sleep(200 * time.Microsecond) {
		err := try()
		if err == nil {
			return nil
		}
		if time.Since(began) > patience {
			b, _ := os.ReadFile(s.log)
			return fmt.Errorf("%s: %w: %s", s.argv[0], err, bytes.TrimSpace(b[max(0, len(b)-500):]))
		}
	}
}

// launch starts the process alone; its standard error goes to a file.
func (s *server) launch() error {
	argv := s.argv
	if s.config != nil {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.network, s.address = "tcp", l.Addr().String()
		l.Close()
		file := place(".conf")
		if err := os.WriteFile(file, []byte(s.config(s.address)), 0o644); err != nil {
			return err
		}
		argv = append(argv, file)
	}
	s.log = place(".log")
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = log
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	running.Lock()
	defer running.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	running.all = append(running.all, s)
	return nil
}

// stopAll ends all servers, at first politely, and what is left of their groups.
func stopAll() {
	running.Lock()
	defer running.Unlock()
	for i := len(running.all) - 1; i >= 0; i-- {
		p := running.all[i].cmd.Process
		p.Signal(unix.SIGTERM)
		// Its group is ended before it is reaped, so that no other can have
		// got its number.
		timer := time.AfterFunc(5*time.Second, func() { p.Kill() })
		for unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		timer.Stop()
		unix.Kill(-p.Pid, unix.SIGKILL)
		p.Wait()
	}
	running.all = nil
}

// ask makes one request, on a connection of its own, and wants 200.
func (s *server) ask(path string) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return err
	}
	_, err = c.answer()
	return err
}

// times is what onewake's processes have used of processors, without their reaped
// children (clock_getcpuclockid(3)); 0 for others.
func (s *server) times() (monitor, core time.Duration) {
	if s.behind != nil {
		return s.behind.times()
	}
	if s.core == 0 {
		return 0, 0
	}
	of := func(pid int) time.Duration {
		var ts unix.Timespec
		unix.ClockGettime(int32(^pid<<3|2), &ts)
		return time.Duration(ts.Nano())
	}
	return of(s.cmd.Process.Pid), of(s.core)
}

// memory is the proportional memory of onewake's processes in MB. Where it
// cannot be read (a core can be looked into by root alone) it is the resident
// memory, which counts shared pages twice.
func (s *server) memory() (float64, error) {
	for _, from := range [][2]string{{"smaps_rollup", "Pss"}, {"status", "VmRSS"}} {
		field := regexp.MustCompile(`(?m)^` + from[1] + `:\s+(\d+) kB`)
		kib, found := 0, 0
		for _, pid := range []int{s.cmd.Process.Pid, s.core} {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, from[0]))
			if m := field.FindSubmatch(b); m != nil {
				n, _ := strconv.Atoi(string(m[1]))
				kib, found = kib+n, found+1
			}
		}
		if found == 2 {
			return float64(kib) * 1024 / 1e6, nil
		}
	}
	return 0, errors.New("memory cannot be read")
}
