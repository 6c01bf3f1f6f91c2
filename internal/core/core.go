// Package core is the process that talks to strangers. On FreeBSD it does so in
// capability mode; everywhere it has an empty environment, and descriptors for
// what it needs and nothing else.
package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/front"
	"github.com/onewake/onewake/internal/logqueue"
	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/internal/testpage"
	"github.com/onewake/onewake/sandbox"
)

// Name is argv[0] of a core, by which the program knows its role and ps(1)
// shows it.
const Name = "onewake: core"

// Descriptors of a core besides 0, 1 and 2. The listeners follow, then the locks.
const (
	Control = 3
	First   = 4
)

// Setup is what the monitor tells a core before anything else.
type Setup struct {
	cli.Config
	Listeners []Listener
	Locks     int
	Software  string          // SERVER_SOFTWARE
	Names     scripts.Names   `json:",omitempty"` // of -scripts
	Page      *testpage.Setup `json:",omitempty"` // where there is no command
}

// Listener is what a core is told of a listening socket.
type Listener struct {
	Name string // as on the command line, with the port that was taken
	Host string
	Port string
	Unix bool
}

// core is what Run keeps.
type core struct {
	Setup
	queue   *logqueue.Queue
	log     *slog.Logger
	client  *control.Client
	gate    *front.Gate
	serve   func(*front.Listener) error
	gateway *cgi.Gateway
	locks   []*os.File
	sandbox sandbox.State
	served  atomic.Uint64
	names   atomic.Pointer[scripts.Names] // of -scripts
	asking  sync.Mutex                    // for new ones

	untraceable error // what came of it
}

// Run is the life of a core, and gives the exit status of one that could not
// start or has lost its monitor.
func Run() (status int) {
	c := new(core)
	// Before anything else: until then a command, which is the same user's, could
	// look in.
	c.untraceable = sandbox.Untraceable()
	// The monitor decides when a core ends; signals sent to the whole
	// foreground group or by a careless pkill do not.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE)
	runtime.GOMAXPROCS(1)
	// Little is allocated for a request, so that collecting often costs nothing
	// and keeps the memory where it was after the first thousand.
	debug.SetGCPercent(50)
	c.logTo(cli.Text)
	err := c.prepare()
	if err == nil {
		err = c.confine()
	}
	if err == nil {
		err = c.client.Ready(c.sandbox.String())
	}
	if err != nil {
		c.log.Error("core cannot start", "error", err)
		c.queue.Close(time.Second)
		return cli.StatusOS
	}
	for _, l := range c.gate.Listeners() {
		go func() {
			c.serve(l)
			l.Close()
		}()
	}
	go c.beat()
	// From here on the monitor decides. When it is gone there is nobody to
	// start commands, and nobody that another monitor's core could wait for.
	c.client.Run()
	c.queue.Close(100 * time.Millisecond)
	return cli.StatusOS
}

func (c *core) logTo(format string) {
	if c.queue != nil {
		c.queue.Close(time.Second)
	}
	c.queue, c.log = logqueue.New(2, format == cli.JSON)
}

// prepare takes the descriptors over and makes everything that capability mode
// would refuse. Rights are limited before a descriptor is converted: package
// net works on duplicates, which inherit them.
func (c *core) prepare() (err error) {
	limit := func(fd int, r sandbox.Rights) {
		if e := sandbox.LimitFD(fd, r); e != nil && !errors.Is(e, sandbox.ErrUnsupported) && err == nil {
			err = e
		}
	}
	limit(0, sandbox.Read)
	limit(1, sandbox.Write)
	limit(2, sandbox.Write)
	if limit(Control, sandbox.Converse); err != nil {
		return err
	}
	if c.client, err = control.NewClient(os.NewFile(Control, "control")); err != nil {
		return err
	}
	b, err := c.client.Config()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c.Setup); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if c.LogFormat != cli.Text {
		c.logTo(c.LogFormat)
	}
	var listeners []*front.Listener
	for i, l := range c.Listeners {
		limit(First+i, sandbox.Serve)
		f := os.NewFile(uintptr(First+i), l.Name)
		ln, lerr := net.FileListener(f)
		f.Close()
		if lerr != nil {
			return fmt.Errorf("listener %s: %w", l.Name, lerr)
		}
		if ul, ok := ln.(*net.UnixListener); ok {
			ul.SetUnlinkOnClose(false)
		}
		listeners = append(listeners, &front.Listener{Listener: ln, Name: l.Name, Host: l.Host, Port: l.Port, Unix: l.Unix})
	}
	for i := range c.Locks {
		fd := First + len(c.Listeners) + i
		limit(fd, 0)
		c.locks = append(c.locks, os.NewFile(uintptr(fd), "lock"))
	}
	c.gate = front.NewGate(&c.Config, c.log, listeners...)
	c.assemble()
	return err
}

// assemble puts the parts together.
func (c *core) assemble() {
	var handler cgi.Handler
	if c.Page != nil {
		handler = &testpage.Page{Setup: *c.Page, Config: &c.Config, Software: c.Software, Sandbox: func() sandbox.State { return c.sandbox }}
	} else {
		c.gateway = cgi.New(&c.Config, c.client, c.log)
		handler = c.gateway
	}
	service := front.Service{Config: &c.Config, Gate: c.gate, Handler: handler, Done: c.done}
	if c.Config.Scripts != "" {
		c.names.Store(&c.Names)
		service.Scripts = c
	}
	if c.Protocol == cli.FastCGI {
		c.serve = (&front.FastCGI{Service: service, Log: c.log}).Serve
	} else {
		h := &front.HTTP{Service: service, Software: c.Software, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelWarn)}
		h.Prepare()
		c.serve = h.Serve
	}
	c.client.OnRetire = func() {
		c.gate.Retire()
		go c.leave(false)
	}
	c.client.OnStop = func() {
		c.gate.Stop()
		go c.leave(true)
	}
}

// Find finds a program of -scripts. A name that is not known may be new: the
// monitor looks, unless another request has just had it look.
func (c *core) Find(path string) (name, info string, ok bool) {
	if name, info, ok = c.names.Load().Find(path); ok {
		return name, info, ok
	}
	c.asking.Lock()
	defer c.asking.Unlock()
	if name, info, ok = c.names.Load().Find(path); ok {
		return name, info, ok
	}
	if names, err := c.client.Scripts(); err == nil && names != nil {
		c.names.Store((*scripts.Names)(&names))
	}
	return c.names.Load().Find(path)
}

// confine enters capability mode. What it refuses has all been done by now:
// the time zone is UTC, the host name came from the monitor, and Go's random
// source is a system call.
func (c *core) confine() error {
	switch err := c.untraceable; {
	case err == nil, errors.Is(err, sandbox.ErrUnsupported):
	case errors.Is(err, syscall.EBUSY) && !c.Config.Sandbox:
		c.log.Warn("core is being traced", "error", err)
	default:
		return err
	}
	if !c.Config.Sandbox {
		c.sandbox = sandbox.Off
		return nil
	}
	err := sandbox.Enter()
	switch {
	case err == nil:
		c.sandbox = sandbox.Confined
	case errors.Is(err, sandbox.ErrUnsupported):
		c.sandbox = sandbox.None
	default:
		return err
	}
	return nil
}

// leave waits until this core has nothing left to do, and ends it.
func (c *core) leave(stop bool) {
	c.gate.WaitListeners()
	for _, f := range c.locks {
		f.Close()
	}
	if stop {
		c.client.Closed()
	}
	c.gate.WaitIdle()
	if c.gateway != nil {
		c.gateway.Wait() // what works on behind its answer
	}
	c.queue.Close(time.Second)
	c.client.Push(c.stats())
	os.Exit(cli.StatusOK)
}

// beat tells the monitor the counters, again and again, which also shows it that
// this core is alive.
func (c *core) beat() {
	for range time.Tick(c.Times.Heartbeat) {
		if c.client.Push(c.stats()) != nil {
			return
		}
	}
}

func (c *core) stats() control.Stats {
	s := control.Stats{Served: c.served.Load(), Conns: uint64(c.gate.Conns()), Dropped: c.queue.Dropped()}
	if c.gateway != nil {
		_, queued, refused := c.gateway.Counts()
		s.Queued, s.Refused = uint64(queued), refused
	}
	return s
}

// done writes the access record.
func (c *core) done(r *cgi.Request) {
	c.served.Add(1)
	if !c.AccessLog {
		return
	}
	rec := &r.Record
	a := append(make([]slog.Attr, 0, 18), slog.String("request_id", r.ID))
	if rec.Process != 0 {
		a = append(a, slog.Uint64("process", rec.Process))
	}
	a = append(a, slog.String("peer", r.Peer.Addr))
	if r.Peer.UID >= 0 {
		a = append(a, slog.Int("uid", r.Peer.UID))
	}
	if r.Peer.Port != "" {
		a = append(a, slog.String("port", r.Peer.Port))
	}
	if r.Client != "" {
		a = append(a, slog.String("client", r.Client))
	}
	a = append(a, slog.String("method", r.Method), slog.String("target", r.Target), slog.Int("status", rec.Status),
		slog.Int64("bytes", rec.Bytes), slog.Duration("duration", time.Since(rec.Received)))
	if rec.Process != 0 {
		a = append(a, slog.Duration("queue", rec.Queue))
	}
	if rec.Exit != "" {
		a = append(a, slog.String("exit", rec.Exit))
	}
	if rec.Ended != nil {
		a = append(a, slog.String("ended", rec.Ended.Error()))
	}
	if rec.Cut {
		a = append(a, slog.Bool("cut", true))
	}
	if rec.Refused != "" {
		a = append(a, slog.String("refused", rec.Refused))
	}
	c.log.LogAttrs(context.Background(), slog.LevelInfo, "request", a...)
}
