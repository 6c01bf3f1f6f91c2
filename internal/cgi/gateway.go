package cgi

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
)

const (
	// maxRedirects is how many local redirects (RFC 3875 § 6.2.2) one request
	// may take.
	maxRedirects = 10
	// blockSize is how much output is read at once, and how much raw output is
	// held until its command ends, in bytes.
	blockSize = 64 << 10
	// spoolFactor is how many of the largest bodies the files of all bodies may
	// hold together.
	spoolFactor = 64
)

// Gateway is the [Handler] that starts the command. Make one with [New].
type Gateway struct {
	*cli.Config
	Client *control.Client
	Log    *slog.Logger

	slots   *slots
	disk    disk
	refused atomic.Uint64
	running sync.WaitGroup // processes that are not over
	blocks  sync.Pool      // of *[]byte, one byte longer than blockSize
}

// New makes a gateway that asks client to start commands.
func New(cfg *cli.Config, client *control.Client, log *slog.Logger) *Gateway {
	g := &Gateway{Config: cfg, Client: client, Log: log, slots: newSlots(cfg.MaxProcs, cfg.MaxQueue)}
	g.disk.maxFiles = int64(cfg.MaxProcs) + int64(cfg.MaxQueue)
	g.disk.maxBytes = spoolFactor * min(cfg.MaxBody, math.MaxInt64/spoolFactor)
	g.blocks.New = func() any { b := make([]byte, blockSize+1); return &b }
	return g
}

// Counts tells how many processes have a slot now, how many requests wait for
// one, and how many have been refused for overload so far.
func (g *Gateway) Counts() (running, queued int, refused uint64) {
	return len(g.slots.taken), int(g.slots.waiting.Load()), g.refused.Load()
}

// Wait returns when nothing of any command is left. No request is served any
// more when it is called.
func (g *Gateway) Wait() { g.running.Wait() }

// log gives a logger for a request's records.
func (g *Gateway) log(r *Request) *slog.Logger {
	if r.Record.Process != 0 {
		return g.Log.With("process", r.Record.Process, "request_id", r.ID)
	}
	return g.Log.With("request_id", r.ID)
}

// Serve answers one request.
func (g *Gateway) Serve(ctx context.Context, r *Request, w Writer) {
	b, err := g.readBody(r)
	if b.length > 0 || r.Length == 0 && r.Body != nil {
		r.Vars.Add("CONTENT_LENGTH", strconv.FormatInt(b.length, 10))
	}
	for redirects := 0; err == nil; redirects++ {
		var p *control.Process
		if p, err = g.start(ctx, r, b, redirects > 0); err != nil {
			break
		}
		location := g.answer(ctx, r, w, b, p)
		if location == "" {
			return
		}
		b, err = new(body), r.Redirect(location)
		if redirects == maxRedirects {
			err = &Refusal{Status: 502, Reason: "too many local redirects"}
		}
	}
	b.close()
	g.refuse(r, w, err)
}

// start starts the command when there is a slot for it. What has had one before
// is not turned away.
func (g *Gateway) start(ctx context.Context, r *Request, b *body, again bool) (p *control.Process, err error) {
	if g.Form {
		if err := addForm(r, b); err != nil {
			return nil, err
		}
	}
	if r.Vars.TooLarge() {
		return nil, errManyVars
	}
	began := time.Now()
	err = g.slots.take(ctx, again)
	r.Record.Queue += time.Since(began)
	if err != nil {
		return nil, err
	}
	p, err = g.Client.Start(ctx, control.Start{Script: r.Script, Vars: r.Vars, Spool: b.file, Pipe: len(b.memory) > 0})
	if err != nil {
		g.slots.release()
	}
	return p, err
}

var errManyVars = &Refusal{Status: 431, Reason: "header too large for a command's environment"}

// answer answers with what a process says. It returns the target of a local
// redirect, or "". Slot and body are the process's from here on.
func (g *Gateway) answer(ctx context.Context, r *Request, w Writer, b *body, p *control.Process) (location string) {
	g.running.Add(1)
	b.forget()
	r.Record.Process, r.Record.Exit, r.Record.ExitStatus = p.ID, "", 0
	a := &answer{g: g, r: r, w: w, p: p, id: r.ID, body: b, quiet: make(chan struct{}), stderr: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	go a.interrupt()
	go a.logStderr()
	if p.Stdin != nil {
		go func() {
			p.Stdin.Write(b.memory) // a command need not read it
			p.Stdin.Close()
		}()
	}
	block := g.blocks.Get().(*[]byte)
	if g.CGI {
		location = a.cgi((*block)[:blockSize])
	} else {
		a.raw(*block)
	}
	g.blocks.Put(block)
	a.cancel(nil)
	if isClosed(p.Over) {
		a.finish()
	} else {
		go a.finish()
	}
	return location
}

// refuse answers a request whose command has not been started.
func (g *Gateway) refuse(r *Request, w Writer, err error) {
	log := g.log(r)
	if r.Script != "" {
		log = log.With("script", r.Script)
	}
	var errno syscall.Errno
	switch {
	case err == errQueueFull:
		g.refused.Add(1)
	case errors.Is(err, control.ErrDisconnected):
		err = ErrEnding
	case errors.Is(err, errNoRoom):
		log.Error("cannot keep a body", "error", err)
		err = &Refusal{Status: 503, Reason: errNoRoom.Error(), Retry: true}
	case !errors.As(err, &errno): // a refusal, or a cause of the context
	case errno == syscall.ECANCELED: // the time of a drain is over
		err = &Refusal{Status: 503, Reason: "the service is ending", Retry: true}
	case errno == control.NoScript: // the monitor has told why
		err = &Refusal{Status: 404, Reason: "no such script"}
	case control.IsTemporary(errno):
		log.Error("command cannot be started", "error", err)
		err = &Refusal{Status: 503, Reason: "no process can be started now", Retry: true}
	default:
		log.Error("command cannot be started", "error", err)
		err = &Refusal{Status: 502, Reason: "the command cannot be started"}
	}
	r.Fail(w, err)
}
