//go:build linux || freebsd

package process

import (
	"slices"
	"testing"
	"time"
)

// TestLongTimers: the poller never gets a longer timeout than it supports.
func TestLongTimers(t *testing.T) {
	l, err := NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	// In milliseconds, these overflow 31 bits or are small in 32.
	for _, d := range []time.Duration{25 * day, 1<<32*time.Millisecond + 1, 1<<63 - 1} {
		timer := l.After(d, func() {})
		if p := l.timeout(); p <= 0 || p > maxWait {
			t.Errorf("%v: the poller gets %v", d, p)
		}
		timer.Stop()
	}
	if p := l.timeout(); p != maxWait {
		t.Errorf("without timers the poller gets %v", p)
	}
}

// TestTimers: timers fire when due, in order, and not after Stop.
func TestTimers(t *testing.T) {
	l, err := NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	began := time.Now()
	after := func(n int, d time.Duration) *Timer {
		return l.After(d, func() {
			got = append(got, n)
			if time.Since(began) < d { // late is possible on a busy machine
				t.Errorf("%d is early", n)
			}
		})
	}
	after(4, 4*soon)
	off := after(3, 3*soon)
	after(1, 0)
	first := after(2, 2*soon)
	l.After(soon, func() { off.Stop(); off.Stop() })
	l.After(5*soon, func() {
		first.Stop() // it has fired
		(*Timer)(nil).Stop()
		l.Stop()
	})
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
	if want := []int{1, 2, 4}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestPost: all functions are called, in order.
func TestPost(t *testing.T) {
	l, err := NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000 // more than fit the channel
	var got []int
	go func() {
		for i := range n {
			l.Post(func() { got = append(got, i) })
		}
		l.Post(l.Stop)
	}()
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
	if len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d calls", len(got))
	}
}
