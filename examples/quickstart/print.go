package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

// printer writes lines in the order in which they were queued. It has a
// goroutine of its own, since the core must not wait for a terminal.
type printer struct {
	out    io.Writer
	colour bool
	lines  chan string
	done   chan struct{}
}

// queued bounds the lines that wait to be written.
const queued = 4096

// newPrinter starts a printer; broken is called when nobody reads any more.
// Close it.
func newPrinter(out io.Writer, broken func()) *printer {
	p := &printer{out: out, colour: wantsColour(out), lines: make(chan string, queued), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for line := range p.lines {
			_, err := io.WriteString(p.out, line+"\n")
			if err != nil {
				broken()
			}
		}
	}()
	return p
}

// close writes what is queued. Nothing may be printed afterwards.
func (p *printer) close() {
	close(p.lines)
	<-p.done
}

// wantsColour holds for a terminal, unless NO_COLOR (no-color.org) or a dumb
// terminal says otherwise. A character device that is no terminal gets colours
// nobody sees.
func wantsColour(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	if runtime.GOOS == "windows" && os.Getenv("WT_SESSION") == "" {
		return false // an old console would show the escapes
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// The colours, as parameters of ANSI's "select graphic rendition".
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (p *printer) paint(colour, text string) string {
	if !p.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// line queues a line. It never blocks: in the unheard-of case that the queue is
// full the line is lost.
func (p *printer) line(text string) {
	select {
	case p.lines <- text:
	default:
	}
}

func (p *printer) heading(text string) { p.line("\n" + p.paint(bold, text)) }

func (p *printer) success(format string, args ...any) {
	p.line(p.paint(bold+";"+green, fmt.Sprintf(format, args...)))
}

func (p *printer) fact(name, value string) {
	p.line("  " + p.paint(cyan, fmt.Sprintf("%-14s", name)) + " " + value)
}

// command is a line to be copied into a shell.
func (p *printer) command(comment, text string) {
	p.line("\n  " + p.paint(dim, "# "+comment) + "\n  " + text)
}

// exchange says who spoke to whom, and what came of it.
func (p *printer) exchange(who, what string, status int) {
	p.line(fmt.Sprintf("  %-22s %s: %s", who, what, p.status(status)))
}

// step is a line of the procedure; number is empty for what is not in the
// standard's picture.
func (p *printer) step(number string, after time.Duration, who, what string) {
	if number != "" {
		number = "step " + number
	}
	p.line(fmt.Sprintf("  %s %8.1f ms  %-22s %s", p.paint(bold+";"+cyan, fmt.Sprintf("%-7s", number)), milliseconds(after), who, what))
}

type measurement struct{ what, value string }

func (p *printer) measurements(all []measurement) {
	for _, m := range all {
		p.line(fmt.Sprintf("  %-37s %s", m.what, m.value))
	}
}

func (p *printer) status(status int) string {
	switch {
	case status >= 200 && status < 300:
		return p.paint(green, fmt.Sprint(status))
	case status == 401 || status == 403:
		return p.paint(yellow, fmt.Sprint(status))
	default:
		return p.paint(red, fmt.Sprint(status))
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
