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
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// server is a server under test: the leader of a process group of its own, and
// where it listens.
type server struct {
	network string
	address string
	cmd     *exec.Cmd
	behind  *server // another that this one asks
	core    int     // pid of onewake's second process, else 0
	log     string
}

// running are the servers to end, whatever happens.
var running struct {
	sync.Mutex
	all []*server
}

// launch starts a server; its standard error goes to a file.
func launch(network, address string, argv ...string) (*server, error) {
	log, err := os.CreateTemp(tmp, "log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{network: network, address: address, log: log.Name(), cmd: exec.Command(argv[0], argv[1:]...)}
	s.cmd.Stderr = log
	s.cmd.Dir = "/"
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	running.Lock()
	defer running.Unlock()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	running.all = append(running.all, s)
	return s, nil
}

// start launches a server that speaks HTTP, waits until it answers and has it
// do what it does a few times.
func start(network, address string, argv ...string) (*server, error) {
	s, err := launch(network, address, argv...)
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if err = s.ask("/"); err == nil {
			return s, warm(s)
		}
		if time.Since(began) > 10*time.Second {
			b, _ := os.ReadFile(s.log)
			return nil, fmt.Errorf("%s does not answer: %w: %s", argv[0], err, bytes.TrimSpace(b[max(0, len(b)-500):]))
		}
	}
}

// stopAll ends all servers, at first politely, and what is left of their groups.
func stopAll() {
	running.Lock()
	defer running.Unlock()
	for i := len(running.all) - 1; i >= 0; i-- {
		s := running.all[i]
		s.cmd.Process.Signal(unix.SIGTERM)
		// Its group is ended before it is reaped, so that no other can have
		// got its number.
		timer := time.AfterFunc(5*time.Second, func() { s.cmd.Process.Kill() })
		for unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		timer.Stop()
		unix.Kill(-s.cmd.Process.Pid, unix.SIGKILL)
		s.cmd.Wait()
	}
	running.all = nil
}

// ask makes one request, on a connection of its own, and wants 200.
func (s *server) ask(path string) error {
	c, err := net.DialTimeout(s.network, s.address, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && !(len(b) > 12 && string(b[9:12]) == "200") {
		err = fmt.Errorf("answer %.60q", b)
	}
	return err
}

// startOnewake starts onewake on a Unix socket, without an access log unless
// the flags have it on again.
func startOnewake(argv ...string) (*server, error) { return startBuild(onewake, argv...) }

func startBuild(binary string, argv ...string) (*server, error) {
	s, err := launchBuild(binary, argv...)
	for began := time.Now(); err == nil && s.core == 0; time.Sleep(5 * time.Millisecond) {
		// The core's pid is in the start record.
		if b, e := os.ReadFile(s.log); e != nil {
			err = e
		} else if m := corePID.FindSubmatch(b); m != nil {
			s.core, err = strconv.Atoi(string(m[1]))
		} else if time.Since(began) > 10*time.Second {
			err = fmt.Errorf("no start record: %s", b)
		}
	}
	return s, err
}

var corePID = regexp.MustCompile(`\bcore=(\d+)`)

func launchBuild(binary string, argv ...string) (*server, error) {
	socket := place(".sock")
	return launch("unix", socket, append([]string{binary, "-listen", "unix:" + socket, "-access-log=false"}, argv...)...)
}

// times is what onewake's processes have used of CPUs, without their reaped
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
	for _, from := range [][2]string{{"smaps_rollup", "Pss:"}, {"status", "VmRSS:"}} {
		a, err := fieldOf(fmt.Sprintf("/proc/%d/%s", s.cmd.Process.Pid, from[0]), from[1])
		b, err2 := fieldOf(fmt.Sprintf("/proc/%d/%s", s.core, from[0]), from[1])
		if err == nil && err2 == nil {
			return (a + b) * 1024 / 1e6, nil
		}
	}
	return 0, errors.New("memory cannot be read")
}

// fieldOf reads a number of KiB from a file of /proc.
func fieldOf(file, name string) (float64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

// raiseFiles allows as many descriptors as may be.
func raiseFiles() {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		r.Cur = r.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &r)
	}
}
