package main

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
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/journal"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
	"github.com/onewake/onewake/spawn"
	"github.com/onewake/onewake/testpage"
)

// coreName is argv[0] of a core, by which this binary knows its role and ps(1)
// shows it.
const coreName = "onewake: core"

// Descriptors of a core. Listeners follow, then locks.
const (
	coreControl = 3
	coreFirst   = 4
)

// coreConfig is what the monitor tells a core before anything else.
type coreConfig struct {
	Listeners   []listenerConfig
	Locks       int
	Command     bool
	CGI         bool
	ContentType string
	ScriptName  string
	Software    string
	Forwarded   gateway.Forwarded
	Timeout     time.Duration
	MaxProcs    int
	MaxQueue    int
	MaxBody     int64
	MaxConns    int
	Allow       allowList
	Sandbox     bool
	Format      journal.Format
	AccessLog   bool
	Page        *testpage.Setup `json:",omitempty"` // if there is no command
}

type listenerConfig struct {
	Name string // as on the command line, with the port that was taken
	Host string
	Port string
	Unix bool
}

// core is the process that talks to strangers.
type core struct {
	cfg       coreConfig
	journal   *journal.Journal
	log       *slog.Logger
	client    *spawn.Client
	server    http1.Server
	gateway   *gateway.Gateway
	listeners []*http1.Listener
	locks     []*os.File
	confined  string // how, for the log
	served    atomic.Uint64
}

// runCore is the life of the core.
func runCore() int {
	// The monitor decides when a core ends; signals sent to the whole
	// foreground group or by a careless pkill do not.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE)
	runtime.GOMAXPROCS(1)
	// Little is allocated for a request, so that collecting often costs nothing
	// and keeps the memory where it was after the first thousand.
	debug.SetGCPercent(25)
	c := new(core)
	c.journal = journal.Open(2, journal.Text)
	c.log = slog.New(c.journal)
	err := c.prepare()
	for _, l := range c.listeners {
		c.server.Add(l)
	}
	if err == nil {
		err = c.confine()
	}
	if err == nil {
		err = c.client.Ready(c.confined)
	}
	if err != nil {
		c.log.Error("core cannot start", "error", err)
		c.journal.Close(time.Second)
		return statusOS
	}
	for _, l := range c.listeners {
		go c.server.Serve(l)
	}
	// From here on the monitor decides. When it is gone there is nobody to
	// start commands, and nobody that another monitor's core could wait for.
	c.client.Run()
	c.journal.Close(100 * time.Millisecond)
	return statusOS
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
	if limit(coreControl, sandbox.Converse); err != nil {
		return err
	}
	if c.client, err = spawn.NewClient(os.NewFile(coreControl, "control")); err != nil {
		return err
	}
	b, err := c.client.Config()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c.cfg); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if c.cfg.Format != journal.Text {
		c.journal.Close(time.Second)
		c.journal = journal.Open(2, c.cfg.Format)
		c.log = slog.New(c.journal)
	}
	for i, lc := range c.cfg.Listeners {
		limit(coreFirst+i, sandbox.Serve)
		f := os.NewFile(uintptr(coreFirst+i), lc.Name)
		ln, lerr := net.FileListener(f)
		f.Close()
		if lerr != nil {
			return fmt.Errorf("listener %s: %w", lc.Name, lerr)
		}
		if ul, ok := ln.(*net.UnixListener); ok {
			ul.SetUnlinkOnClose(false)
		}
		c.listeners = append(c.listeners, &http1.Listener{
			Listener: ln, Name: lc.Name, Host: lc.Host, Port: lc.Port, Unix: lc.Unix,
		})
	}
	for i := range c.cfg.Locks {
		fd := coreFirst + len(c.cfg.Listeners) + i
		limit(fd, 0)
		c.locks = append(c.locks, os.NewFile(uintptr(fd), "lock"))
	}
	c.assemble()
	return err
}

// assemble puts the parts together.
func (c *core) assemble() {
	meta := gateway.Meta{ScriptName: c.cfg.ScriptName, Software: c.cfg.Software, Forwarded: c.cfg.Forwarded}
	c.server = http1.Server{
		Name:     serverField,
		Admit:    c.admit,
		MaxConns: c.maxConns() + max(0, len(c.cfg.Listeners)-1), // one that waits for a client holds one
		Done:     c.done,
		AcceptError: func(err error) {
			c.log.Error("cannot accept", "error", err)
		},
	}
	if c.cfg.Command {
		c.gateway = &gateway.Gateway{
			Meta: meta, Client: c.client, Log: c.journal, CGI: c.cfg.CGI, ContentType: c.cfg.ContentType,
			Timeout: c.cfg.Timeout, MaxProcs: c.cfg.MaxProcs, MaxQueue: c.cfg.MaxQueue, MaxBody: c.cfg.MaxBody,
		}
		c.server.Handler = c.gateway.Serve
	} else {
		c.server.Handler = c.testPage(meta).Serve
	}
	c.client.OnRetire = func() {
		c.server.Retire()
		go c.leave(false)
	}
	c.client.OnStop = func() {
		c.server.Stop()
		go c.leave(true)
	}
	c.client.OnWantStats = c.stats
}

// confine enters capability mode. What it refuses has all been done by now:
// the time zone is UTC, the host name came from the monitor, and Go's random
// source is a system call.
func (c *core) confine() error {
	switch err := sandbox.Untraceable(); {
	case err == nil, errors.Is(err, sandbox.ErrUnsupported):
	case errors.Is(err, syscall.EBUSY):
		c.log.Warn("core is being traced already", "error", err)
	default:
		return err
	}
	if !c.cfg.Sandbox {
		c.confined = "off"
		return nil
	}
	err := sandbox.Enter()
	switch {
	case err == nil:
		c.confined = "capability mode"
	case errors.Is(err, sandbox.ErrUnsupported):
		c.confined = "none: " + sandbox.ErrUnsupported.Error()
	default:
		return err
	}
	return nil
}

// leave waits until this core has nothing left to do, and ends it.
func (c *core) leave(stop bool) {
	c.server.WaitListeners()
	for _, f := range c.locks {
		f.Close()
	}
	if stop {
		c.client.Closed()
	}
	c.server.WaitIdle()
	c.journal.Close(time.Second)
	if !stop {
		c.client.LastStats()
	}
	os.Exit(statusOK)
}

// maxConns keeps enough descriptors for the commands' pipes and spool files.
func (c *core) maxConns() int {
	if c.cfg.MaxConns > 0 {
		return c.cfg.MaxConns
	}
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	spare := 64 + 5*c.cfg.MaxProcs + c.cfg.MaxQueue
	return max(16, int(min(uint64(r.Cur), 1<<16))-spare)
}

// admit says who a peer is and whether -allow lets it in.
func (c *core) admit(nc net.Conn, l *http1.Listener) (http1.Peer, bool) {
	if !l.Unix {
		addr := nc.RemoteAddr()
		if addr == nil { // reset in the backlog, and accepted at a stop
			return http1.Peer{}, false
		}
		host, port, err := net.SplitHostPort(addr.String())
		return http1.Peer{Addr: host, Port: port, UID: -1}, err == nil
	}
	p := http1.Peer{Addr: http1.NoAddr, UID: -1}
	cred, err := sock.PeerCred(nc.(syscall.Conn))
	if err == nil {
		p.UID = cred.UID
	}
	if !c.cfg.Allow.Set {
		return p, true
	}
	ok := err == nil && (slices.Contains(c.cfg.Allow.UIDs, cred.UID) || slices.ContainsFunc(c.cfg.Allow.GIDs, cred.In))
	if !ok {
		c.log.Warn("peer refused", "listen", l.Name, "uid", p.UID, "verdict", "not in -allow")
	}
	return p, ok
}

func (c *core) stats() spawn.Stats {
	s := spawn.Stats{Served: c.served.Load(), Conns: uint64(c.server.Conns()), Dropped: c.journal.Dropped()}
	if c.gateway != nil {
		running, queued, refused := c.gateway.Counts()
		s.Running, s.Queued, s.Refused = uint64(running), uint64(queued), refused
	}
	return s
}

// done writes the access record.
func (c *core) done(x *http1.Exchange) {
	c.served.Add(1)
	if !c.cfg.AccessLog {
		return
	}
	now := time.Now()
	rec := slog.NewRecord(now, slog.LevelInfo, "request", 0)
	var list [16]slog.Attr
	a := append(list[:0], slog.String("peer", x.Peer.Addr))
	if x.Peer.UID >= 0 {
		a = append(a, slog.Int("uid", x.Peer.UID))
	}
	if x.Peer.Port != "" {
		a = append(a, slog.String("port", x.Peer.Port))
	}
	r, _ := x.Value.(*gateway.Record)
	if r != nil && r.Client != "" {
		a = append(a, slog.String("client", r.Client))
	}
	a = append(a, slog.String("method", string(x.Method)), slog.String("path", string(x.Target)),
		slog.Int("status", x.Status), slog.Int64("bytes", x.Sent), slog.Duration("duration", now.Sub(x.Received)))
	if r != nil {
		if r.Started {
			a = append(a, slog.Uint64("id", r.ID), slog.Duration("queue", r.Queue))
		}
		if r.Exited {
			a = append(a, slog.String("exit", spawn.Describe(r.Status)))
		}
		if r.Ended != "" {
			a = append(a, slog.String("ended", r.Ended))
		}
		a = append(a, slog.String("request_id", string(r.RequestID())))
	}
	if x.WasCut {
		a = append(a, slog.Bool("cut", true))
	}
	if x.Refused != nil {
		a = append(a, slog.String("refused", x.Refused.Reason))
	}
	rec.AddAttrs(a...)
	c.journal.Handle(context.Background(), rec)
}
