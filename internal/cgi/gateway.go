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
	maxRedirects = 10       // local redirects (RFC 3875 § 6.2.2) of a request
	blockSize    = 64 << 10 // of a read of output, and of raw output that is held back; in bytes
	spoolFactor  = 64       // all spool files together: spoolFactor times -max-body
)

// Gateway is the [Handler] that starts the command. Make one with [New].
type Gateway struct {
	*cli.Config
	Client *control.Client
	Log    *slog.Logger

	slots   *slots
	disk    disk
	refused atomic.Uint64
	running sync.WaitGroup // one for each process whose slot is not released
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

// Counts returns the numbers of slots in use, of requests that wait for one, and
// of requests that have been refused because the queue was full.
func (g *Gateway) Counts() (running, queued int, refused uint64) {
	return len(g.slots.taken), int(g.slots.waiting.Load()), g.refused.Load()
}

// Wait waits until all processes are over. No request may be served any more.
func (g *Gateway) Wait() { g.running.Wait() }

// log returns the logger of a request. process is 0 if none has been started.
func (g *Gateway) log(id string, process uint64) *slog.Logger {
	if process != 0 {
		return g.Log.With("process", process, "request_id", id)
	}
	return g.Log.With("request_id", id)
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

// start takes a slot and starts the command. again is true if the request has had
// a slot before; it is then not refused.
func (g *Gateway) start(ctx context.Context, r *Request, b *body, again bool) (p *control.Process, err error) {
	if g.Form {
		if err := addForm(r, b); err != nil {
			return nil, err
		}
	}
	if r.Vars.TooLarge() {
		return nil, ErrVarsTooLarge
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

// refuse answers a request whose command could not be started.
func (g *Gateway) refuse(r *Request, w Writer, err error) {
	log := g.log(r.ID, r.Record.Process)
	if r.Script != "" {
		log = log.With("script", r.Script)
	}
	var errno syscall.Errno
	switch {
	case err == errQueueFull:
		g.refused.Add(1)
	case errors.Is(err, control.ErrDisconnected):
		err = ErrEnding
	case errors.Is(err, errNoSpace):
		log.Error("cannot store a request body", "error", err)
		err = &Refusal{Status: 503, Reason: errNoSpace.Error(), Retry: true}
	case !errors.As(err, &errno): // a refusal, or a cause of the context
	case errno == syscall.ECANCELED: // -drain has passed
		err = &Refusal{Status: 503, Reason: "the service is ending", Retry: true}
	case errno == control.NoScript: // the monitor has logged why
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

// slots limits the number of processes. Waiting requests get slots in the order
// of their arrival, because blocked sends to a channel are served in order.
type slots struct {
	taken   chan struct{}
	limit   int64 // of waiting
	waiting atomic.Int64
}

func newSlots(max, limit int) *slots {
	return &slots{taken: make(chan struct{}, max), limit: int64(limit)}
}

// full reports whether a request would be refused now.
func (s *slots) full() bool {
	return len(s.taken) == cap(s.taken) && s.waiting.Load() >= s.limit
}

// take takes a slot. It waits for one if necessary. It fails with errQueueFull,
// unless the request has had a slot before (again), or with the cause of ctx.
func (s *slots) take(ctx context.Context, again bool) error {
	select {
	case s.taken <- struct{}{}:
		return nil
	default:
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > s.limit && !again {
		return errQueueFull
	}
	select {
	case s.taken <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slots) release() { <-s.taken }

var errQueueFull = &Refusal{Status: 503, Reason: "too many requests are waiting", Retry: true}
