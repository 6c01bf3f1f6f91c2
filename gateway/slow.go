package gateway

import (
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/onewake/onewake/http1"
)

const (
	// patience is how long a client may leave a part of its answer in our
	// hands before it counts as slow.
	patience = 5 * time.Millisecond
	// slowTurn is how often we look what has changed for a slow one.
	slowTurn = 50 * time.Millisecond
)

// backlog is output that a slow client has not taken yet, in a file, so that
// the command can end and make room for the next one.
type backlog struct {
	f        *os.File
	from, to int64 // what of it is still to be sent
	told     int64 // what news has told of
	b        *http1.Block
}

func (l *backlog) left() int64 { return l.to - l.from }

// news tells how many bytes have been put aside since it was asked last.
func (l *backlog) news() int64 {
	n := l.to - l.told
	l.told = l.to
	return n
}

// slowClient goes on while the client takes too little: it waits as long as
// nobody else wants the slot, and else puts the command's output aside. It
// returns when the client has caught up, or, with r.eof set, when the command's
// output has ended. No more of it is put aside than a request's body may be
// long.
func (r *run) slowClient() error {
	// A command that has ended has given its slot back.
	for r.gone() || !r.g.queue.crowded() {
		if err := r.x.Flush(slowTurn); err != http1.ErrSlow {
			return err
		}
		if r.stopped() != none {
			return errStopped
		}
	}
	l := &r.backlog
	if l.f == nil {
		f, err := r.g.openFile()
		if err != nil {
			// Too many of its kind, or no room. Its answer is given up for
			// those of the clients who wait.
			r.end("too slow")
			r.x.Cut()
			return err
		}
		l.f, l.b = f, blockPool.Get().(*http1.Block)
	}
	if err := r.putAside(r.more); err != nil {
		return err
	}
	r.more = nil
	buf := blockPool.Get().(*http1.Block)
	defer blockPool.Put(buf)
	look := slowTurn
	for pending := true; pending || l.left() > 0; {
		turn := slowTurn
		if l.to < r.g.MaxBody {
			n, err := r.readMore(buf.Data(), look)
			if werr := r.putAside(buf.Data()[:n]); werr != nil {
				return werr
			}
			if err == io.EOF {
				r.eof = true
				return nil
			}
			if err != nil {
				return err
			}
			turn = time.Millisecond
		} else if r.stopped() != none {
			return errStopped
		}
		// In turn, give the client what it takes at once.
		switch err := r.pass(&pending, turn); err {
		case nil:
			look = time.Millisecond // it is fast again
		case http1.ErrSlow:
			look = slowTurn
		default:
			return err
		}
	}
	return nil
}

// putAside adds to the backlog. Where there is no room for that, the answer is
// given up.
func (r *run) putAside(p []byte) error {
	l := &r.backlog
	n, err := l.f.WriteAt(p, l.to)
	l.to += int64(n)
	if err != nil {
		return r.giveUp(err)
	}
	return nil
}

func (r *run) giveUp(err error) error {
	r.log(slog.LevelError, "cannot keep an answer", slog.String("error", err.Error()))
	r.end("too slow")
	r.x.Cut()
	return err
}

// pass gives the client the next part: what an earlier call has left, else a
// block of the backlog.
func (r *run) pass(pending *bool, d time.Duration) error {
	if *pending {
		if err := r.x.Flush(d); err != nil {
			return err
		}
		*pending = false
	}
	l := &r.backlog
	if l.left() == 0 {
		return nil
	}
	n := int(min(l.left(), http1.BlockSize))
	if _, err := l.f.ReadAt(l.b.Data()[:n], l.from); err != nil {
		return r.giveUp(err)
	}
	l.from += int64(n)
	err := r.x.SendSome(l.b, 0, n, d)
	*pending = err == http1.ErrSlow
	return err
}

// last gives the client what has been put aside, and marks the end of the
// answer. The slot has been given back by then, if the command has ended.
func (r *run) last() bool {
	r.done()
	l := &r.backlog
	if l.f != nil {
		err := r.x.Flush(time.Second)
		pending := err == http1.ErrSlow
		for err == http1.ErrSlow || err == nil && l.left() > 0 {
			err = r.pass(&pending, time.Second)
		}
		if err != nil {
			return false
		}
	}
	b := l.b
	if b == nil {
		b = blockPool.Get().(*http1.Block)
		defer blockPool.Put(b)
	}
	return r.x.Send(b, 0, 0, true) == nil
}

func (l *backlog) close(g *Gateway) {
	if l.f != nil {
		l.f.Close()
		g.files.Add(-1)
		blockPool.Put(l.b)
		l.f, l.b = nil, nil
	}
}
