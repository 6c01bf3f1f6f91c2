// Package cli parses and checks the command line. The resulting [Config] is used
// by the monitor, the core and their packages.
package cli

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// Config is the configuration. The monitor sends it to the core as JSON. See
// onewake(8) for the meaning of each flag.
type Config struct {
	Listen      []sock.Addr   // -listen
	Protocol    string        // -protocol: HTTP or FastCGI
	SocketPerms perms.Spec    // -socket-mode, -socket-owner, -socket-group
	Allow       Allow         // -allow
	CGI         bool          // -cgi; -scripts implies it
	Scripts     string        // -scripts: a directory
	ContentType string        // -content-type
	Stream      bool          // -stream
	Form        bool          // -form
	Env         []string      // -env: PATH first, NAME=VALUE
	Param       []string      // -param
	Dir         string        // -dir
	ScriptName  string        // -script-name: empty, or a path that does not end in a slash
	Forwarded   []string      // -forwarded: some of ForwardedHeaders
	Timeout     time.Duration // -timeout
	KillAfter   time.Duration // -kill-after
	Drain       time.Duration // -drain
	MaxProcs    int           // -max-procs
	MaxQueue    int           // -max-queue
	MaxBody     int64         // -max-body, in bytes
	MaxConns    int           // -max-conns
	SpoolDir    string        // -spool-dir
	Sandbox     bool          // -sandbox on
	LogFormat   string        // -log-format: text or json
	AccessLog   bool          // -access-log

	Command []string // argv; empty for the test page and with -scripts
	Path    string   // absolute path of the command

	Times Times
}

// Values of -protocol.
const (
	HTTP    = "http"
	FastCGI = "fastcgi"
)

// Values of -log-format.
const (
	Text = "text"
	JSON = "json"
)

// Sock returns the options for opening the listeners.
func (c *Config) Sock() sock.Config {
	return sock.Config{Perms: c.SocketPerms, LockWait: c.Times.LockWait}
}

// ForwardedHeaders are the headers that -forwarded can name.
var ForwardedHeaders = []string{"X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "X-Remote-User"}

// Trusts reports whether -forwarded names the header, in any case.
func (c *Config) Trusts(header string) bool {
	return slices.ContainsFunc(c.Forwarded, func(h string) bool { return strings.EqualFold(h, header) })
}

// Filter returns the filter for the variables that requests set.
func (c *Config) Filter() *control.Filter {
	o := control.FilterOptions{
		FastCGI: c.Protocol == FastCGI, Params: c.Param, RemoteUser: c.Trusts("X-Remote-User"),
		Scripts: c.Scripts != "", Form: c.Form,
	}
	for _, v := range c.Env {
		name, _, _ := strings.Cut(v, "=")
		o.Env = append(o.Env, name)
	}
	return control.NewFilter(o)
}

// OpenFiles returns how many open files the limits may add up to in a core (see
// SECURITY.md), and how many the system allows.
func (c *Config) OpenFiles() (need, limit uint64) {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0, 0
	}
	return uint64(c.MaxConns + 4*c.MaxProcs + c.MaxQueue + len(c.Listen) + 10), uint64(r.Max)
}

// minOpenFiles returns how many open files the monitor needs to start a core and
// one command, as measured.
func (c *Config) minOpenFiles() uint64 { return uint64(20 + 3*len(c.Listen)) }

// Allow lists who may connect to Unix listeners.
type Allow struct {
	Set  bool // -allow was given
	UIDs []int
	GIDs []int
}

// Times are timeouts and intervals that have no flag. They are fields so that
// tests can set them.
type Times struct {
	Header    time.Duration // to read the header of a request, from its first byte
	Idle      time.Duration // between two requests on a connection
	IO        time.Duration // for each read of a body and each write of an answer
	Grace     time.Duration // to wait for more output after the process has exited
	Heartbeat time.Duration // between heartbeats of a core; it is killed after three are missed
	Ready     time.Duration // for a new core to become ready
	Retired   time.Duration // for a replaced core to exit, in addition to -timeout and -kill-after
	LockWait  time.Duration // for another onewake to release the lock of the socket
	Backoff   time.Duration // first delay before a core that died is replaced
}

// DefaultTimes suit a machine that is ten times slower than usual.
var DefaultTimes = Times{
	Header:    10 * time.Second,
	Idle:      60 * time.Second,
	IO:        30 * time.Second,
	Grace:     time.Second,
	Heartbeat: 10 * time.Second,
	Ready:     30 * time.Second,
	Retired:   time.Hour,
	LockWait:  5 * time.Second,
	Backoff:   100 * time.Millisecond,
}
