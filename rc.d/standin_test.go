//go:build linux

package rcd_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The script's surroundings on FreeBSD, played by this test binary under the
// names of the programs: each records how it was called, and does what the
// script relies on.
var standins = map[string]func(args []string) int{
	"daemon":   daemon,
	"daemon:":  supervise,
	"chroot":   chroot,
	"limits":   limits,
	"setfib":   setfib,
	"protect":  func([]string) int { return 0 },
	"id":       id,
	"install":  install,
	"jail":     jail,
	"jls":      func([]string) int { return 1 },
	"service":  service,
	"sysctl":   func([]string) int { fmt.Println(0); return 0 },
	"kenv":     func([]string) int { return 1 },
	"ps":       ps,
	"pwait":    pwait,
	"prepend":  func(args []string) int { return run(args) },
	"onewake":  onewake,
	"onewake2": onewake,
}

func TestMain(m *testing.M) {
	name, _, _ := strings.Cut(filepath.Base(os.Args[0]), " ")
	if name == "daemon-child" {
		daemonChild()
	}
	if play := standins[name]; play != nil {
		if !slices.Contains([]string{"daemon:", "id", "ps", "pwait", "sysctl", "kenv", "jls"}, name) {
			record(call{Tool: name, Args: slices.Clone(os.Args[1:])})
		}
		os.Exit(play(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func root() string       { return os.Getenv("ROOT") }
func is15() bool         { return os.Getenv("RELEASE") == "15" }
func self() string       { exe, _ := os.Executable(); return exe }
func fatal(v any) int    { fmt.Fprintln(os.Stderr, v); return 1 }
func at(p string) string { return filepath.Join(root(), p) }

// A call is one line of ROOT/calls.
type call struct {
	Tool  string
	Args  []string
	Pid   int
	Env   []string `json:",omitempty"`
	Umask int
	Nice  int
	Files uint64
}

func record(c call) {
	c.Pid = os.Getpid()
	for i := range c.Args { // JSON has no bytes that are not UTF-8
		c.Args[i] = strconv.Quote(c.Args[i])
	}
	line, _ := json.Marshal(c)
	f, err := os.OpenFile(at("calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		os.Exit(fatal(err))
	}
	f.Write(append(line, '\n'))
	f.Close()
}

// run becomes another program, found by PATH.
func run(args []string) int {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return fatal(err)
	}
	return fatal(syscall.Exec(path, args, os.Environ()))
}

// getopt splits args as getopt(3) does, stopping at the first operand.
func getopt(args []string, spec string) (opts map[byte][]string, rest []string, err error) {
	opts = map[byte][]string{}
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" {
			return opts, args[1:], nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			break
		}
		args = args[1:]
		for i := 1; i < len(arg); i++ {
			at := strings.IndexByte(spec, arg[i])
			if at < 0 || arg[i] == ':' {
				return nil, nil, fmt.Errorf("illegal option -- %c", arg[i])
			}
			if at+1 == len(spec) || spec[at+1] != ':' {
				opts[arg[i]] = append(opts[arg[i]], "")
				continue
			}
			value := arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, nil, fmt.Errorf("option requires an argument -- %c", arg[i])
				}
				value, args = args[0], args[1:]
			}
			opts[arg[i]] = append(opts[arg[i]], value)
			break
		}
	}
	return opts, args, nil
}

func last(opts map[byte][]string, o byte) string {
	if v := opts[o]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func chroot(args []string) int {
	opts, rest, err := getopt(args, "G:g:u:n")
	if err != nil || len(rest) < 2 || rest[0] != "/" {
		return fatal("usage: chroot [-g group] [-G group,group,...] [-u user] [-n] newroot [command]")
	}
	if _, ok := users[last(opts, 'u')]; !ok {
		return fatal("chroot: no such user")
	}
	return run(rest[1:])
}

func limits(args []string) int {
	opts, rest, err := getopt(args, "C:n:")
	if err != nil || last(opts, 'C') == "" {
		return fatal("usage: limits")
	}
	if n := last(opts, 'n'); n != "" {
		v, err := strconv.ParseUint(n, 10, 32)
		if err != nil {
			return fatal("limits: invalid")
		}
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: v, Max: v})
	}
	return run(rest)
}

func setfib(args []string) int {
	opts, rest, err := getopt(args, "F:")
	if err != nil || last(opts, 'F') == "" {
		return fatal("usage: setfib")
	}
	return run(rest)
}

// users has gid and groups, as `id -g` and `id -G` print them.
var users = map[string][2]string{
	"root":    {"0", "0 5"},
	"onewake": {"1001", "1001 2001"},
	"gitweb":  {"1002", "1002"},
}

func id(args []string) int {
	if len(args) == 1 {
		switch args[0] {
		case "-u":
			if os.Getenv("NOT_ROOT") != "" {
				fmt.Println(1234)
			} else {
				fmt.Println(0)
			}
		case "-un":
			fmt.Println("root")
		}
		return 0
	}
	u, ok := users[args[1]]
	if !ok {
		return fatal("id: no such user")
	}
	fmt.Println(u[map[string]int{"-g": 0, "-G": 1}[args[0]]])
	return 0
}

func install(args []string) int {
	opts, rest, err := getopt(args, "do:g:m:")
	if err != nil || len(rest) != 1 {
		return fatal("usage: install")
	}
	if g := last(opts, 'g'); g != "www" && g != "gitgroup" {
		return fatal("install: unknown group " + g)
	}
	mode, _ := strconv.ParseUint(last(opts, 'm'), 8, 32)
	if err := os.MkdirAll(rest[0], 0o755); err != nil {
		return fatal(err)
	}
	os.Chmod(rest[0], os.FileMode(mode))
	return 0
}

// jail and service: a jail is only a name here.
func jail(args []string) int {
	if args[0] == "-r" {
		return 0
	}
	for _, a := range args {
		if cmd, ok := strings.CutPrefix(a, "exec.start="); ok {
			c := exec.Command("sh", "-c", cmd)
			c.Stdout, c.Stderr = os.Stdout, os.Stderr
			if c.Run() != nil {
				return 1
			}
		}
	}
	return 0
}

func service(args []string) int {
	opts, rest, err := getopt(args, "E:j:v")
	if err != nil {
		return fatal(err)
	}
	if e := last(opts, 'E'); e != "" {
		name, value, _ := strings.Cut(e, "=")
		os.Setenv(name, value)
	}
	return run(append([]string{at("usr/local/etc/rc.d/" + rest[0])}, rest[1:]...))
}

// ps prints pid, jail and command, for a real rc.subr.
func ps(args []string) int {
	for i, a := range args {
		if (a == "-p" || a == "-p ") && i+1 < len(args) {
			b, _ := os.ReadFile("/proc/" + strings.TrimSpace(args[i+1]) + "/cmdline")
			if slices.Contains(args, "jid=") && len(args) < 5 {
				fmt.Println(0)
			} else if len(b) > 0 {
				fmt.Println(args[i+1], 0, strings.ReplaceAll(string(b), "\x00", " "))
			}
		}
	}
	return 0
}

func pwait(args []string) int {
	var pids []string
	one := false
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			one = strings.Contains(a, "o")
		} else {
			pids = append(pids, a)
		}
	}
	for {
		var left []string
		for _, p := range pids {
			if n, _ := strconv.Atoi(p); syscall.Kill(n, 0) == nil {
				left = append(left, p)
			}
		}
		if len(left) == 0 || one && len(left) < len(pids) {
			if one {
				fmt.Println(strings.Join(left, " "))
			}
			return 0
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// The daemon(8) stand-in supervises for real.

var facilities = strings.Fields("auth authpriv console cron daemon ftp kern lpr mail news ntp security " +
	"syslog user uucp local0 local1 local2 local3 local4 local5 local6 local7")
var priorities = strings.Fields("alert crit debug emerg err error info none notice panic warn warning")

func daemon(args []string) int {
	opts, rest, err := getopt(args, "cfHSp:P:ru:o:s:l:t:m:R:T:")
	if err != nil || len(rest) == 0 {
		return fatal("usage: daemon")
	}
	if l := last(opts, 'l'); l != "" && !slices.Contains(facilities, l) {
		fatal("daemon: unrecognized syslog facility")
		return 5
	}
	if s := last(opts, 's'); s != "" && !slices.Contains(priorities, s) {
		fatal("daemon: unrecognized syslog priority")
		return 4
	}
	if r, ok := opts['R']; ok {
		if n, err := strconv.Atoi(r[0]); err != nil || n < 1 {
			fatal("daemon: invalid restart delay")
			return 6
		}
	}
	if o := last(opts, 'o'); o != "" {
		f, err := openLog(o)
		if err != nil {
			fatal("daemon: open: " + err.Error())
			return 7
		}
		f.Close()
	}
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	files := []*os.File{null, null}
	for i, o := range []byte{'p', 'P'} {
		path := last(opts, o)
		if path == "" {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			fatal(err)
			return 2
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			b, _ := os.ReadFile(path)
			fatal("daemon: process already running, pid: " + string(b))
			return 3
		}
		f.Truncate(0)
		files[i] = f
	}
	cmd := exec.Cmd{
		Path:        self(),
		Args:        append([]string{"daemon: " + last(opts, 't'), "--"}, args...),
		Env:         os.Environ(),
		ExtraFiles:  files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return fatal(err)
	}
	return 0
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// supervise is daemon(8) in the background.
func supervise(args []string) int {
	opts, argv, _ := getopt(args[1:], "cfHSp:P:ru:o:s:l:t:m:R:T:")
	record(call{Tool: "supervisor"})
	pidfile, ppidfile := os.NewFile(3, "pidfile"), os.NewFile(4, "ppidfile")
	remove := func() {
		for _, o := range []byte{'p', 'P'} {
			if p := last(opts, o); p != "" {
				os.Remove(p)
			}
		}
	}
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGHUP)
	if last(opts, 'P') != "" {
		fmt.Fprint(ppidfile, os.Getpid())
	}

	var mu sync.Mutex
	var log *os.File
	if o := last(opts, 'o'); o != "" {
		log, _ = openLog(o)
	}
	reopen := func() {
		if _, ok := opts['H']; ok && log != nil {
			mu.Lock()
			log.Close()
			log, _ = openLog(last(opts, 'o'))
			mu.Unlock()
		}
	}
	output := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		if log != nil {
			io.WriteString(log, line)
			return
		}
		f, _ := openLog(at("var/log/syslog"))
		fmt.Fprintf(f, "%s %s.%s: %s", last(opts, 'T'), last(opts, 'l'), last(opts, 's'), line)
		f.Close()
	}

	delay, _ := strconv.Atoi(last(opts, 'R'))
	terminating := false
	for {
		r, w, _ := os.Pipe()
		cmd := exec.Cmd{
			Path:       self(),
			Args:       append([]string{"daemon-child"}, argv...),
			Env:        os.Environ(),
			Stdout:     w,
			Stderr:     w,
			ExtraFiles: []*os.File{pidfile},
		}
		if err := cmd.Start(); err != nil {
			remove()
			return fatal(err)
		}
		w.Close()
		gone := make(chan bool)
		go func() {
			eof := make(chan bool)
			go func() {
				for in := bufio.NewReader(r); ; {
					line, err := in.ReadString('\n')
					if line != "" {
						output(line)
					}
					if err != nil {
						close(eof)
						return
					}
				}
			}()
			cmd.Wait()
			<-eof
			close(gone)
		}()
	wait:
		for {
			select {
			case <-gone:
				break wait
			case s := <-sig:
				if s == syscall.SIGHUP {
					reopen()
					continue
				}
				if !is15() { // forwards it, and does not stay to see
					cmd.Process.Signal(syscall.SIGTERM)
					remove()
					return 1
				}
				if !terminating {
					terminating = true
					cmd.Process.Signal(syscall.SIGTERM)
				}
			}
		}
		r.Close()
		if delay == 0 || terminating {
			remove()
			return 1
		}
		if is15() {
			pidfile.Truncate(0)
		}
		for pause := time.After(time.Duration(delay) * time.Second); pause != nil; {
			select {
			case <-pause:
				pause = nil
			case s := <-sig:
				if s == syscall.SIGHUP {
					reopen()
					continue
				}
				remove()
				return 1
			}
		}
	}
}

// daemonChild is daemon(8)'s child: it writes its own pid and becomes the
// program.
func daemonChild() {
	f := os.NewFile(3, "pidfile")
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
		f.Truncate(0)
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	syscall.CloseOnExec(3)
	os.Exit(run(os.Args[1:]))
}

// The onewake stand-in does as the file ROOT/behave says: lines of a word and a
// number, with underscores for what follows them.
func onewake(args []string) int {
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	prio, _ := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	var files syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	record(call{Tool: "run", Args: slices.Clone(args), Env: os.Environ(), Umask: mask, Nice: 20 - prio, Files: files.Max})

	behave := map[string]int{}
	b, _ := os.ReadFile(at("behave"))
	for line := range strings.Lines(string(b)) {
		var k string
		var n int
		fmt.Sscan(line, &k, &n)
		behave[k] = n
	}
	if args[0] == "-check" {
		if n := behave["check"]; n != 0 {
			fmt.Fprintln(os.Stderr, "onewake: -dir /nowhere: no such directory")
			return n
		}
		for i, a := range args {
			if a == "-listen" && len(strings.TrimPrefix(args[i+1], "unix:")) > 103 {
				fmt.Fprintln(os.Stderr, "onewake: too long")
				return 78
			}
		}
		fmt.Println("onewake: check ok")
		return 0
	}
	fmt.Fprintf(os.Stderr, "msg=start args=%q\n", args)
	if n := behave["start"]; n != 0 {
		fmt.Fprintln(os.Stderr, "onewake: address already in use")
		return n
	}
	signal.Ignore(syscall.SIGPIPE)
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	time.Sleep(time.Duration(behave["slow"]) * time.Millisecond)
	if n := behave["dies"]; n != 0 {
		return n
	}
	var sockets []string
	for i, a := range args {
		if a == "--" {
			break
		}
		if a != "-listen" {
			continue
		}
		path, ok := strings.CutPrefix(args[i+1], "unix:")
		if !ok {
			if addr, ok := strings.CutPrefix(args[i+1], "tcp4:"); ok && behave["tcp"] != 0 {
				l, err := net.Listen("tcp4", addr)
				if err != nil {
					return fatal(err)
				}
				fmt.Fprintf(os.Stderr, "time=now level=INFO msg=start listen=\"tcp4:%s\"\n", l.Addr())
			}
			continue
		}
		if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
			os.Remove(path)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			return fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		sockets = append(sockets, path)
		fmt.Fprintf(os.Stderr, "time=now level=INFO msg=start listen=unix:%s\n", path)
	}
	for s := range sig {
		record(call{Tool: "signal", Args: []string{s.String()}})
		fmt.Fprintf(os.Stderr, "msg=signal signal=%q\n", s)
		if s != syscall.SIGTERM && s != syscall.SIGINT {
			continue
		}
		select {
		case <-time.After(time.Duration(behave["drain"]) * time.Millisecond):
		case <-sig:
			record(call{Tool: "signal", Args: []string{"second"}})
		}
		break
	}
	for _, p := range sockets {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			fatal(err)
		}
	}
	fmt.Fprintln(os.Stderr, "msg=stopped")
	return 0
}
