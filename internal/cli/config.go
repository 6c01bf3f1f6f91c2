// Package cli turns the command line into one [Config], which the monitor, the
// core and all of their parts use under the same names, and reports what is
// wrong with it.
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

// Config is everything that is fixed at start. The monitor hands it to the core
// as JSON. The meaning of each flag is in onewake(8).
type Config struct {
	Listen      []sock.Addr   // -listen
	Protocol    string        // -protocol: HTTP or FastCGI
	SocketPerms perms.Spec    // -socket-mode, -socket-owner, -socket-group
	Allow       Allow         // -allow
	CGI         bool          // -cgi; -scripts implies it
	Scripts     string        // -scripts: a directory, or empty
	ContentType string        // -content-type
	Stream      bool          // -stream
	Form        bool          // -form
	Env         []string      // PATH and -env, NAME=VALUE
	Param       []string      // -param
	Dir         string        // -dir
	ScriptName  string        // -script-name: empty, or a path without a slash at its end
	Forwarded   []string      // -forwarded: some of ForwardedHeaders
	Timeout     time.Duration // -timeout: of one request's processes, from start to end
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

	Command []string // argv, empty for the test page and with -scripts
	Path    string   // of the command, absolute

	Times Times
}

// The protocols of -protocol.
const (
	HTTP    = "http"
	FastCGI = "fastcgi"
)

// The formats of -log-format.
const (
	Text = "text"
	JSON = "json"
)

// Sock is how the listeners are opened.
func (c *Config) Sock() sock.Config {
	return sock.Config{Perms: c.SocketPerms, LockWait: c.Times.LockWait}
}

// ForwardedHeaders are the headers that -forwarded can name.
var ForwardedHeaders = []string{"X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "X-Remote-User"}

// Trusts reports whether -forwarded names the header, in any case.
func (c *Config) Trusts(header string) bool {
	return slices.ContainsFunc(c.Forwarded, func(h string) bool { return strings.EqualFold(h, header) })
}

// Filter decides which variables a request may set.
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

// OpenFiles tells how many files a core may have open at once by the limits, as
// SECURITY.md adds them up, and how many the system lets it have.
func (c *Config) OpenFiles() (need, limit uint64) {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0, 0
	}
	return uint64(c.MaxConns + 4*c.MaxProcs + c.MaxQueue + len(c.Listen) + 10), uint64(r.Max)
}

// Allow is who may connect to Unix listeners by -allow.
type Allow struct {
	Set  bool
	UIDs []int
	GIDs []int
}

// Times are the times that no flag sets. They are fields so that a test can
// make one short that it waits for, and long that must not pass.
type Times struct {
	Header    time.Duration // for the head of a request, from its first byte
	Idle      time.Duration // between two requests of a connection
	IO        time.Duration // for each read of a body and each write of an answer
	Grace     time.Duration // for an answer's last word, see cgi
	Heartbeat time.Duration // between two counters that a core sends; three missed are too many
	Ready     time.Duration // until a new core serves
	Retired   time.Duration // for a core that a reload has replaced, besides -timeout and -kill-after
	LockWait  time.Duration // for a predecessor to let go of the socket's lock
	Backoff   time.Duration // before a core that died is replaced, at first
}

// DefaultTimes are those of the program. They are chosen for a machine on which
// everything takes ten times as long as usual.
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
