// Package core is the process that reads from the network. Its environment is
// empty, and it has no descriptors except those that it needs. On FreeBSD it runs
// in capability mode.
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

// Name is argv[0] of a core. It tells the program its role, and is shown by ps(1).
const Name = "onewake: core"

// Descriptors of a core besides 0, 1 and 2. The listeners and then the locks start
// at First.
const (
	Control = 3
	First   = 4
)

// Setup is the configuration that the monitor sends to a core.
type Setup struct {
	cli.Config
	Listeners []Listener
	Locks     int
	Software  string          // SERVER_SOFTWARE
	Names     scripts.Names   `json:",omitempty"` // with -scripts
	Page      *testpage.Setup `json:",omitempty"` // without a command
}

// Listener describes a listening socket.
type Listener struct {
	Name string // as on the command line, with the actual port
	Host string // SERVER_NAME
	Port string // SERVER_PORT
	Unix bool
}

// core is the state of the process.
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
	scripts atomic.Pointer[scripts.Names] // with -scripts
	update  sync.Mutex                    // held while asking the monitor for scripts

	untraceable error // result of sandbox.Untraceable
}

// Run runs a core. It returns the exit status if the core cannot start or loses
// its monitor.
func Run() (status int) {
	c := new(core)
	// First, because a command of the same user could trace this process.
	c.untraceable = sandbox.Untraceable()
	// Only the monitor stops a core, not a signal to the foreground process group
	// or from pkill(1).
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE)
	runtime.GOMAXPROCS(1)
	// A request allocates little, so frequent collections are cheap. They keep
	// the memory use constant.
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
	go c.sendHeartbeats()
	c.client.Run() // returns when the monitor has exited: nobody can start commands
	c.queue.Close(100 * time.Millisecond)
	return cli.StatusOS
}

func (c *core) logTo(format string) {
	if c.queue != nil {
		c.queue.Close(time.Second)
	}
	c.queue, c.log = logqueue.New(2, format == cli.JSON)
}

// prepare takes over the descriptors and does everything that is not possible in
// capability mode. It limits the rights of a descriptor before it passes it to
// package net, which uses a duplicate with the same rights.
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

// assemble creates the handler and the server.
func (c *core) assemble() {
	var handler cgi.Handler
	if c.Page != nil {
		handler = &testpage.Page{Setup: *c.Page, Config: &c.Config, Software: c.Software, Sandbox: func() sandbox.State { return c.sandbox }}
	} else {
		c.gateway = cgi.New(&c.Config, c.client, c.log)
		handler = c.gateway
	}
	service := front.Service{Config: &c.Config, Gate: c.gate, Handler: handler, Done: c.logAccess}
	if c.Config.Scripts != "" {
		c.scripts.Store(&c.Names)
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
		go c.exitWhenIdle(false)
	}
	c.client.OnStop = func() {
		c.gate.Stop()
		go c.exitWhenIdle(true)
	}
}

// Find implements [front.Scripts]. If it does not find a script it asks the
// monitor for new ones, unless another request has just done so.
func (c *core) Find(path string) (name, info string, ok bool) {
	if name, info, ok = c.scripts.Load().Find(path); ok {
		return name, info, ok
	}
	c.update.Lock()
	defer c.update.Unlock()
	if name, info, ok = c.scripts.Load().Find(path); ok {
		return name, info, ok
	}
	if names, err := c.client.Scripts(); err == nil && names != nil {
		c.scripts.Store((*scripts.Names)(&names))
	}
	return c.scripts.Load().Find(path)
}

// confine enters capability mode. Nothing after this needs more: the time zone is
// UTC, the host name comes from the monitor, and Go's random numbers come from a
// system call.
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
	if errors.Is(err, sandbox.ErrUnsupported) {
		c.sandbox = sandbox.None
		return nil
	}
	c.sandbox = sandbox.Confined
	return err
}

// exitWhenIdle exits when all requests and their processes are over.
func (c *core) exitWhenIdle(stop bool) {
	c.gate.WaitListeners()
	for _, f := range c.locks {
		f.Close()
	}
	if stop {
		c.client.Closed()
	}
	c.gate.WaitIdle()
	if c.gateway != nil {
		c.gateway.Wait() // processes that run on after their answer
	}
	c.queue.Close(time.Second)
	c.client.Push(c.stats())
	os.Exit(cli.StatusOK)
}

// sendHeartbeats sends the counters at regular intervals.
func (c *core) sendHeartbeats() {
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

// logAccess counts a request and writes its access record.
func (c *core) logAccess(r *cgi.Request) {
	c.served.Add(1)
	if !c.AccessLog {
		return
	}
	rec, ended := &r.Record, ""
	if rec.Ended != nil {
		ended = rec.Ended.Error()
	}
	attrs := make([]slog.Attr, 0, 18)
	add := func(cond bool, a slog.Attr) {
		if cond {
			attrs = append(attrs, a)
		}
	}
	add(true, slog.String("request_id", r.ID))
	add(rec.Process != 0, slog.Uint64("process", rec.Process))
	add(true, slog.String("peer", r.Peer.Addr))
	add(r.Peer.UID >= 0, slog.Int("uid", r.Peer.UID))
	add(r.Peer.Port != "", slog.String("port", r.Peer.Port))
	add(r.Client != "", slog.String("client", r.Client))
	add(true, slog.String("method", r.Method))
	add(true, slog.String("target", r.Target))
	add(true, slog.Int("status", rec.Status))
	add(true, slog.Int64("bytes", rec.Bytes))
	add(true, slog.Duration("duration", time.Since(rec.Received)))
	add(rec.Process != 0, slog.Duration("queue", rec.Queue))
	add(rec.Exit != "", slog.String("exit", rec.Exit))
	add(ended != "", slog.String("ended", ended))
	add(rec.Cut, slog.Bool("cut", true))
	add(rec.Refused != "", slog.String("refused", rec.Refused))
	c.log.LogAttrs(context.Background(), slog.LevelInfo, "request", attrs...)
}
