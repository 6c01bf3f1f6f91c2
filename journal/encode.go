package journal

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	timeLayout = "2006-01-02T15:04:05.000Z"
	// tailRoom is kept free behind the values for numbers and the closing mark.
	tailRoom = 320
	// minString is what a string gets even in a record that is nearly full.
	minString = 24
	cutMark   = "cut"
)

// encode appends one whole record, with its newline.
func (j *Journal) encode(b []byte, r slog.Record) []byte {
	t := r.Time
	if t.IsZero() {
		t = time.Now()
	}
	if j.format == JSON {
		b = append(b, `{"time":"`...)
		b = t.UTC().AppendFormat(b, timeLayout)
		b = append(b, `","level":"`...)
		b = append(b, r.Level.String()...)
		b = append(b, `","msg":`...)
	} else {
		b = append(b, "time="...)
		b = t.UTC().AppendFormat(b, timeLayout)
		b = append(b, " level="...)
		b = append(b, r.Level.String()...)
		b = append(b, " msg="...)
	}
	b = j.appendString(b, r.Message)
	if len(b)+len(j.attrs) > MaxRecord-64 {
		b = j.appendAttr(b, "", slog.Bool(cutMark, true))
	} else {
		b = append(b, j.attrs...)
	}
	r.Attrs(func(a slog.Attr) bool {
		mark := len(b)
		b = j.appendAttr(b, j.group, a)
		if len(b) > MaxRecord-32 {
			b = j.appendAttr(b[:mark], "", slog.Bool(cutMark, true))
			return false
		}
		return true
	})
	if j.format == JSON {
		b = append(b, '}')
	}
	return append(b, '\n')
}

func (j *Journal) appendAttr(b []byte, group string, a slog.Attr) []byte {
	v := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return b
	}
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, g := range v.Group() {
			b = j.appendAttr(b, group, g)
		}
		return b
	}
	if j.format == JSON {
		b = append(b, ',', '"')
		b = append(b, group...)
		b = append(b, a.Key...)
		b = append(b, '"', ':')
	} else {
		b = append(b, ' ')
		b = append(b, group...)
		b = append(b, a.Key...)
		b = append(b, '=')
	}
	switch v.Kind() {
	case slog.KindInt64:
		return strconv.AppendInt(b, v.Int64(), 10)
	case slog.KindUint64:
		return strconv.AppendUint(b, v.Uint64(), 10)
	case slog.KindBool:
		return strconv.AppendBool(b, v.Bool())
	case slog.KindFloat64:
		return strconv.AppendFloat(b, v.Float64(), 'g', -1, 64)
	case slog.KindDuration:
		// Seconds in both formats: one unit is easier to sum than Go's mix.
		return strconv.AppendFloat(b, v.Duration().Seconds(), 'f', 6, 64)
	case slog.KindString:
		return j.appendString(b, v.String())
	case slog.KindTime:
		return j.appendString(b, v.Time().UTC().Format(timeLayout))
	}
	switch x := v.Any().(type) {
	case []string:
		return j.appendList(b, x)
	case error:
		return j.appendString(b, x.Error())
	default:
		return j.appendString(b, fmt.Sprint(x))
	}
}

func (j *Journal) appendList(b []byte, list []string) []byte {
	if j.format == JSON {
		b = append(b, '[')
		for i, s := range list {
			if i > 0 {
				b = append(b, ',')
			}
			b = j.appendString(b, s)
		}
		return append(b, ']')
	}
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = j.appendString(b, s)
	}
	return b
}

// appendString quotes s, and cuts it when the record would grow too long.
func (j *Journal) appendString(b []byte, s string) []byte {
	room := max(MaxRecord-tailRoom-len(b), minString)
	keep := len(s)
	if keep > room {
		keep = Fit(s, room)
	}
	start := len(b)
	for {
		b = j.quote(b[:start], s[:keep])
		if n := len(b) - start - 2; n <= room {
			break
		}
		keep = Fit(s[:keep], room)
	}
	if left := len(s) - keep; left > 0 {
		b = append(b[:len(b)-1], " [+"...)
		b = strconv.AppendInt(b, int64(left), 10)
		b = append(b, `]"`...)
	}
	return b
}

// Fit tells how many bytes of s may stand in a record if, quoted, they are to
// take at most room bytes. It never splits a UTF-8 sequence.
func Fit[T string | []byte](s T, room int) int {
	used := 0
	for i := 0; i < len(s); {
		c, size := s[i], 1
		var cost int
		switch {
		case c == '"' || c == '\\' || c == '\n' || c == '\t' || c == '\r':
			cost = 2
		case c < 0x20 || c == 0x7f:
			cost = 6
		case c < utf8.RuneSelf:
			cost = 1
		default:
			// At worst a rune is written as an escape of ten bytes.
			_, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			cost = 10
		}
		if used+cost > room {
			return i
		}
		used += cost
		i += size
	}
	return len(s)
}

func (j *Journal) quote(b []byte, s string) []byte {
	if j.format == Text {
		return strconv.AppendQuote(b, s)
	}
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < 0x20 || c == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, `\ufffd`...)
			} else {
				b = append(b, s[i:i+size]...)
			}
			i += size
			continue
		}
		i++
	}
	return append(b, '"')
}
