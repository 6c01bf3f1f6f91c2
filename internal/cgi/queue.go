package cgi

import (
	"context"
	"sync/atomic"
)

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
