package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrClosed is returned by Put once the queue has been closed.
var ErrClosed = errors.New("queue: closed")

// Queue hands jobs to a fixed number of workers in the order they came.
type Queue struct {
	mu     sync.Mutex
	jobs   chan func(context.Context) error
	closed bool
}

// New starts workers that run until the context ends.
func New(ctx context.Context, workers, room int) (*Queue, error) {
	if workers <= 0 {
		return nil, fmt.Errorf("queue: %d workers", workers)
	}
	q := &Queue{jobs: make(chan func(context.Context) error, room)}
	for i := 0; i < workers; i++ {
		go q.work(ctx)
	}
	return q, nil
}

// Put adds a job, waiting for room.
func (q *Queue) Put(ctx context.Context, job func(context.Context) error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	select {
	case q.jobs <- job:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *Queue) work(ctx context.Context) {
	for {
		select {
		case job, ok := <-q.jobs:
			if !ok {
				return
			}
			if err := job(ctx); err != nil {
				fmt.Println("job failed:", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
