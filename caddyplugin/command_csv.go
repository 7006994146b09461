package caddyplugin

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/revocation"
)

// batch are the rows of a file that are to be revoked.
type batch struct {
	// name is a digest of the file: the same file is the same batch.
	name     string
	rows     []batchRow
	repeated int // rows that were left out because an earlier one says the same
}

// causes are those of the rows, at most shownProblems of them.
func (b *batch) causes() []string {
	var list []string
	for i := range b.rows {
		cause := b.rows[i].request.Cause
		if len(list) < shownProblems && !slices.Contains(list, cause) {
			list = append(list, cause)
		}
	}
	return list
}

type batchRow struct {
	line    int
	request adminapi.RevocationRequest
}

// The columns of a file.
const (
	columnInvoker = "api_invoker_id"
	columnAPI     = "api_id"
	columnAEF     = "aef_id"
	columnCause   = "cause"
	columnReason  = "reason"
	columnTicket  = "ticket"

	allAPIsWord = "*"
)

var columns = []string{columnInvoker, columnAPI, columnAEF, columnCause, columnReason, columnTicket}

// readBatch reads a CSV file; defaults fill what a row leaves empty. It returns every
// problem, each beginning with the number of its line.
func readBatch(data []byte, defaults *adminapi.RevocationRequest, aefID string, hosted []string) (*batch, []string) {
	digest := sha256.Sum256(data)
	b := &batch{name: "csv-" + hex.EncodeToString(digest[:8])}
	reader := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff")))) // spreadsheets begin with a mark
	reader.TrimLeadingSpace = true
	header, err := reader.Read()
	if err != nil {
		return b, []string{fmt.Sprintf("1: no header line: give one such as %s,%s,%s: %v", columnInvoker, columnAPI, columnTicket, err)}
	}
	place, problems := readHeader(header)
	if len(problems) > 0 {
		return b, problems
	}
	seen := map[[3]string]bool{}
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			var parse *csv.ParseError
			line := 0
			if errors.As(err, &parse) {
				line, err = parse.Line, parse.Err
			}
			if errors.Is(err, csv.ErrFieldCount) {
				err = fmt.Errorf("%w: %d; the header has %d", err, len(record), len(header))
			}
			problems = append(problems, fmt.Sprintf("%d: %v", line, err))
			if !errors.Is(err, csv.ErrFieldCount) {
				break // what follows cannot be trusted
			}
			continue
		}
		line, _ := reader.FieldPos(0)
		row := batchRow{line: line, request: rowOf(record, place, defaults, aefID)}
		if problem := checkRow(&row.request, hosted); problem != "" {
			problems = append(problems, fmt.Sprintf("%d: %s", line, problem))
			continue
		}
		key := [3]string{row.request.APIInvokerID, row.request.AEFID, strings.Join(row.request.APIIDs, "")}
		if seen[key] {
			b.repeated++
			continue
		}
		seen[key] = true
		b.rows = append(b.rows, row)
	}
	if len(b.rows) == 0 && len(problems) == 0 {
		problems = append(problems, "1: there is no row below the header")
	}
	return b, problems
}

// readHeader finds the columns.
func readHeader(header []string) (map[string]int, []string) {
	place := map[string]int{}
	var problems []string
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(name))
		_, twice := place[name]
		switch {
		case strings.ContainsAny(name, ";\t\r\x00") || !utf8.ValidString(name):
			return place, []string{"1: no CSV file with commas, one row a line and UTF-8: save it as such"}
		case !slices.Contains(columns, name):
			problems = append(problems, fmt.Sprintf("1: unknown column %q; there are %s", name, strings.Join(columns, ", ")))
		case twice:
			problems = append(problems, fmt.Sprintf("1: column %s stands there twice", name))
		}
		place[name] = i
	}
	for _, required := range []string{columnInvoker, columnAPI} {
		if _, ok := place[required]; !ok && len(problems) == 0 {
			problems = append(problems, fmt.Sprintf("1: column %s is missing", required))
		}
	}
	return place, problems
}

func rowOf(record []string, place map[string]int, defaults *adminapi.RevocationRequest, aefID string) adminapi.RevocationRequest {
	r := *defaults
	get := func(column string, into *string) {
		if i, ok := place[column]; ok && strings.TrimSpace(record[i]) != "" {
			*into = strings.TrimSpace(record[i])
		}
	}
	var api string
	get(columnInvoker, &r.APIInvokerID)
	get(columnAPI, &api)
	get(columnAEF, &r.AEFID)
	get(columnCause, &r.Cause)
	get(columnReason, &r.Reason)
	get(columnTicket, &r.Ticket)
	if r.AEFID == "" {
		r.AEFID = aefID
	}
	switch api {
	case "":
	case allAPIsWord:
		r.AllAPIs = true
	default:
		r.APIIDs = []string{api}
	}
	return r
}

// checkRow says what the admin API would refuse.
func checkRow(r *adminapi.RevocationRequest, hosted []string) string {
	for column, text := range map[string]string{columnInvoker: r.APIInvokerID, columnAPI: strings.Join(r.APIIDs, "")} {
		switch {
		case text == "" && (column != columnAPI || !r.AllAPIs):
			return column + " is empty"
		case len(text) > revocation.MaxIDBytes:
			return fmt.Sprintf("%s is longer than %d bytes", column, revocation.MaxIDBytes)
		case !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }):
			return column + " holds a control character, or is not UTF-8"
		}
	}
	if r.Cause == "" {
		return "cause is empty: give the column or --cause"
	}
	for column, text := range map[string]string{columnCause: r.Cause, columnReason: r.Reason, columnTicket: r.Ticket} {
		if len(text) > maxText || !utf8.ValidString(text) {
			return fmt.Sprintf("%s is longer than %d bytes, or not UTF-8", column, maxText)
		}
	}
	if !slices.Contains(hosted, r.AEFID) {
		return fmt.Sprintf("aef_id %q is not hosted here; hosted: %s", r.AEFID, strings.Join(hosted, ", "))
	}
	return ""
}

func (b *batch) invokers() int {
	seen := map[string]bool{}
	for i := range b.rows {
		seen[b.rows[i].request.APIInvokerID] = true
	}
	return len(seen)
}

// hit is an API at an AEF, with how much of a file is about it.
type hit struct {
	aef, api       string
	rows, invokers int
}

func (b *batch) hits() []hit {
	counts := map[[2]string]*hit{}
	seen := map[[3]string]bool{}
	for i := range b.rows {
		r := &b.rows[i].request
		api := strings.Join(r.APIIDs, "")
		key := [2]string{r.AEFID, api}
		if counts[key] == nil {
			counts[key] = &hit{aef: r.AEFID, api: api}
		}
		counts[key].rows++
		if who := [3]string{r.AEFID, api, r.APIInvokerID}; !seen[who] {
			seen[who] = true
			counts[key].invokers++
		}
	}
	list := make([]hit, 0, len(counts))
	for _, t := range counts {
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b hit) int {
		return strings.Compare(a.aef+"\x00"+a.api, b.aef+"\x00"+b.api)
	})
	return list
}
