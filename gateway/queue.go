package gateway

import "sync"

// queue lets at most max runs go on at once; up to limit more wait, first
// come, first served.
type queue struct {
	mu      sync.Mutex
	max     int
	limit   int
	running int
	waiting int
	list    []*run // some of them may have left (run.queued is false)
	head    int
}

// full tells whether a run would be turned away now.
func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running >= q.max && q.waiting >= q.limit
}

// crowded tells whether somebody waits for a slot.
func (q *queue) crowded() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting > 0
}

// enter gives r a slot, or a place in the queue (eventSlot follows then), or
// neither. One that continues a request comes first and is never turned away.
func (q *queue) enter(r *run, continues bool) (queued, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running < q.max {
		q.running++
		return false, true
	}
	if q.waiting >= q.limit && !continues {
		return false, false
	}
	r.queued = true
	q.waiting++
	if continues && q.head > 0 {
		q.head--
		q.list[q.head] = r
	} else if continues {
		q.list = append([]*run{r}, q.list...)
	} else {
		if q.head > len(q.list)/2 {
			n := copy(q.list, q.list[q.head:])
			clear(q.list[n:])
			q.list, q.head = q.list[:n], 0
		}
		q.list = append(q.list, r)
	}
	return true, true
}

// leave takes r out of the queue. It returns false if r has got its slot
// meanwhile.
func (q *queue) leave(r *run) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !r.queued {
		return false
	}
	r.queued = false
	q.waiting--
	// Those who have left are not kept until their turn, which may be far off.
	if len(q.list)-q.head > 2*q.waiting+64 {
		kept := q.list[:0]
		for _, r := range q.list[q.head:] {
			if r.queued {
				kept = append(kept, r)
			}
		}
		clear(q.list[len(kept):])
		q.list, q.head = kept, 0
	}
	return true
}

// release passes a slot on to the next in the queue.
func (q *queue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.head < len(q.list) {
		r := q.list[q.head]
		q.list[q.head] = nil
		q.head++
		if r.queued {
			r.queued = false
			q.waiting--
			r.tell(eventSlot)
			return
		}
	}
	q.list, q.head = q.list[:0], 0
	q.running--
}

func (q *queue) counts() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, q.waiting
}
