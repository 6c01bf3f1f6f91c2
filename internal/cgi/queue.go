package cgi

import (
	"context"
	"sync/atomic"
)

// slots are the places of the processes that may run at once. Those who wait
// for one get it in the order in which they came, as sends to a channel do.
type slots struct {
	taken   chan struct{}
	limit   int64 // of those who wait
	waiting atomic.Int64
}

func newSlots(max, limit int) *slots {
	return &slots{taken: make(chan struct{}, max), limit: int64(limit)}
}

// full tells whether a request would be turned away now.
func (s *slots) full() bool {
	return len(s.taken) == cap(s.taken) && s.waiting.Load() >= s.limit
}

// take takes a slot, or waits for one. What is never turned away is a request
// that has had one before. It fails with errQueueFull, or with the cause of ctx.
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
