package control

import "strings"

// Names asks for the names of the scripts, since a request has asked for one
// that is not known. It gives nil if they are the same as before. One goroutine
// at a time may ask.
func (c *Client) Names() ([]string, error) {
	if err := c.send(msgAskNames, 0); err != nil {
		return nil, err
	}
	names, ok := <-c.names
	if !ok {
		return nil, ErrGone
	}
	return names, nil
}

// named takes the answer to Names.
func (c *Client) named(payload []byte) error {
	var names []string
	if payload[4] != 0 {
		names = []string{}
		for name := range strings.SplitSeq(string(payload[5:]), "\x00") {
			if name != "" {
				names = append(names, name)
			}
		}
	}
	select {
	case c.names <- names:
		return nil
	default:
		return breach("names that nobody asked for")
	}
}

// askedNames answers a core's question.
func (p *Peer) askedNames(f frame) error {
	if len(f.payload) != 0 || f.id != 0 || p.OnNames == nil {
		return breach("names of scripts, where there are none")
	}
	names := p.OnNames()
	if names == nil {
		p.answer(msgNames, 0, 0, 0)
		return nil
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name + "\x00")
	}
	p.send(appendFrame(nil, msgNames, 0, []byte{0, 0, 0, 0, 1}, []byte(b.String())))
	return nil
}
