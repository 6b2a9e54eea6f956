package supervise

import "sync"

// mailbox is what others have to say to a container's goroutine, in the order in
// which it came. It has no bound, so that nobody who posts waits: two containers
// that have something to say to each other cannot lock each other up.
type mailbox struct {
	mu     sync.Mutex
	queue  []func()
	wake   chan struct{} // holds one token while the queue is not empty
	closed bool
	read   bool // one is being read: its reader has not come back for the next
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// post adds a message; it tells whether somebody will read it.
func (m *mailbox) post(message func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.queue = append(m.queue, message)
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// next waits for a message. Only one goroutine calls it. idle, if any, is called
// before it waits.
func (m *mailbox) next(idle func()) func() {
	for {
		m.mu.Lock()
		m.read = len(m.queue) > 0
		if m.read {
			message := m.queue[0]
			m.queue[0] = nil
			m.queue = m.queue[1:]
			m.mu.Unlock()
			return message
		}
		m.mu.Unlock()
		if idle != nil {
			idle()
		}
		<-m.wake
	}
}

// close has further messages refused and returns those that were not read.
func (m *mailbox) close() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed, m.read = true, false
	left := m.queue
	m.queue = nil
	return left
}

// pending tells whether there is a message that has not been dealt with.
func (m *mailbox) pending() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read || len(m.queue) > 0
}
