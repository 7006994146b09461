package caddyplugin

import (
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddy-capif/aef/internal/revocation"
)

// table writes rows in columns.
func (c *console) table(header []string, rows [][]string) {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	if header != nil {
		_, _ = w.Write([]byte(strings.Join(header, "\t") + "\n")) // into memory
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		_, _ = w.Write([]byte(strings.Join(cells, "\t") + "\n"))
	}
	_ = w.Flush() // as with every other write to the terminal
}

// printable keeps what others sent from commanding the terminal.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

func at(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func apiOr(api string) string {
	if api == "" {
		return "all APIs"
	}
	return api
}

func (c *console) revocations(list []revocation.Revocation) {
	rows := make([][]string, 0, len(list))
	for i := range list {
		r := &list[i]
		rows = append(rows, []string{r.ID, at(r.CreatedAt), string(r.State), r.InvokerID, r.AEFID, apiOr(r.APIID), r.Cause, r.Ticket, lastWord(r)})
	}
	c.table([]string{"ID", "CREATED", "STATE", "API INVOKER", "AEF", "API", "CAUSE", "TICKET", "CORE"}, rows)
}

// lastWord is the core's last answer.
func lastWord(r *revocation.Revocation) string {
	if len(r.Answers) == 0 {
		return ""
	}
	return answerText(&r.Answers[len(r.Answers)-1])
}

func answerText(a *revocation.Answer) string {
	text := a.Operation
	if a.Status > 0 {
		text += fmt.Sprintf(" %d", a.Status)
	} else {
		text += " no answer"
	}
	if a.Detail != "" && a.Detail != "no answer" {
		text += ": " + a.Detail
	}
	return text
}

func (c *console) claims(list []revocation.Claim) {
	rows := make([][]string, 0, len(list))
	for i := range list {
		claim := &list[i]
		aef := claim.AEF
		if aef == "" {
			aef = "every"
		}
		api := apiOr(claim.API)
		if !claim.Token.IsZero() {
			api += ", one token"
		}
		rows = append(rows, []string{claim.Invoker, aef, api, claim.Origin.String(), claim.Cause, at(claim.SetAt), claim.Revocation})
	}
	c.table([]string{"API INVOKER", "AEF", "API", "SET BY", "CAUSE", "SET", "REVOCATION"}, rows)
}

func (c *console) audits(list []revocation.Audit) {
	rows := make([][]string, 0, len(list))
	for i := range list {
		a := &list[i]
		apis := strings.Join(a.APIs, " ")
		if a.AllAPIs {
			apis = "all APIs"
		}
		rows = append(rows, []string{at(a.At), string(a.Action), a.By, a.Invoker, apis, whatCame(a), a.Reason, a.Ticket})
	}
	c.table([]string{"AT", "ACTION", "BY", "API INVOKER", "API", "OUTCOME", "REASON", "TICKET"}, rows)
}

// whatCame says in a few words what came of a change.
func whatCame(a *revocation.Audit) string {
	var parts []string
	if a.State != "" {
		parts = append(parts, string(a.State))
	}
	if a.Answer != nil {
		parts = append(parts, answerText(a.Answer))
	}
	if a.Outcome != "" {
		parts = append(parts, strings.ReplaceAll(a.Outcome, "_", " "))
	}
	if a.Claims > 0 {
		parts = append(parts, fmt.Sprintf("%d claims", a.Claims))
	}
	if a.Contexts > 0 && a.Invoker == "" {
		parts = append(parts, fmt.Sprintf("%d more contexts", a.Contexts))
	}
	for i, list := range [][]revocation.ContextEntry{a.Unlisted, a.Listed} {
		if len(list) > 0 {
			parts = append(parts, []string{"no longer lists", "newly lists"}[i])
		}
		for _, e := range list {
			parts = append(parts, cmp.Or(e.AEF, "*")+"/"+cmp.Or(e.API, "*"))
		}
	}
	return strings.Join(append(parts, strings.Join(a.Revocations, " ")), " ")
}
