package gateway

import (
	"log/slog"
	"os"
	"time"

	"github.com/onewake/onewake/nbio"
)

// stderr reads a command's error output while it runs. The first bytes go to
// the log as they come, in pieces that fit a record; the rest is counted.
type stderr struct {
	f    *os.File
	done chan struct{}
	stderrLog
}

type stderrLog struct {
	r      *run
	logged int
	more   int64
}

func newStderr(r *run) *stderr {
	s := &stderr{
		f:         os.NewFile(uintptr(r.p.Stderr), "stderr"),
		done:      make(chan struct{}),
		stderrLog: stderrLog{r: r},
	}
	go func() {
		defer close(s.done)
		var buf [4 << 10]byte
		for {
			n, err := s.f.Read(buf[:])
			s.add(buf[:n])
			if err != nil {
				s.rest() // there may not have been time for it
				s.end()
				return
			}
		}
	}()
	return s
}

// finish gives what is still in the pipe a moment. A process that has been
// told to end but has not is not waited for.
func (s *stderr) finish() {
	if s.r.gone() {
		s.f.SetReadDeadline(time.Now().Add(s.r.g.lastWords))
	} else {
		s.f.SetReadDeadline(time.Unix(1, 0))
	}
	<-s.done
	s.f.Close()
}

// logRest logs what a process that was quick left in the pipe.
func logRest(r *run) {
	l := stderrLog{r: r}
	l.rest()
	l.end()
	nbio.Close(r.p.Stderr)
}

// rest logs what is in the pipe.
func (l *stderrLog) rest() {
	var buf [512]byte
	// What has left the group may still write, and is not waited for.
	for range 256 {
		n, _ := nbio.Read(l.r.p.Stderr, buf[:])
		if n <= 0 {
			break
		}
		l.add(buf[:n])
	}
}

func (l *stderrLog) add(b []byte) {
	keep := b[:min(len(b), maxStderr-l.logged)]
	l.logged += len(keep)
	l.more += int64(len(b) - len(keep))
	for len(keep) > 0 {
		piece := fit(keep)
		keep = keep[len(piece):]
		l.r.log(slog.LevelWarn, "stderr", slog.String("text", string(piece)))
	}
}

func (l *stderrLog) end() {
	if l.more > 0 {
		l.r.log(slog.LevelWarn, "stderr was longer", slog.Int64("bytes", l.more))
	}
}
