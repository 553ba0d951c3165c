// Draws the panels of one dashboard with Grafana's own components, from data that Prometheus gave.
// Not a Grafana server: layout, variables and transformations are those of tools/dashboards.
import {
  createTheme,
  dateTime,
  FieldType,
  getDisplayProcessor,
  getDisplayValueAlignmentFactors,
  ThemeContext,
  toDataFrame,
} from '@grafana/data';
import {
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  GlobalStyles,
  PanelChrome,
  PortalContainer,
  Table,
  TimeSeries,
} from '@grafana/ui';
import React from 'react';
import { createRoot } from 'react-dom/client';
import 'uplot/dist/uPlot.min.css';

const { board, answers, span } = window.DRAWN;
const theme = createTheme({ colors: { mode: 'dark' } });
const COLUMN = 66, ROW = 36, GAP = 8, TOP = 56;

function configured(panel, name, unit, index) {
  const defaults = panel.fieldConfig.defaults;
  return {
    ...defaults,
    displayName: name,
    unit: unit ?? defaults.unit,
    color: defaults.color ?? { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' },
    custom: { axisPlacement: 'auto', ...defaults.custom },
  };
}

function overridden(panel, id, value, what) {
  const found = (panel.fieldConfig.overrides ?? []).find(
    (each) => each.matcher.id === id && each.matcher.options === value
  );
  return found?.properties.find((each) => each.id === what)?.value;
}

function field(panel, name, values, type, index, unit) {
  const made = { name, type, values, config: configured(panel, name, unit, index), state: { seriesIndex: index, displayName: name } };
  if (type === FieldType.time) {
    made.config = { displayName: name };
  }
  made.display = getDisplayProcessor({ field: made, theme, timeZone: 'utc' });
  return made;
}

function Graph({ panel, series, width, height }) {
  const frames = series.map((each, index) => ({
    refId: each.refId,
    length: each.times.length,
    fields: [
      field(panel, 'Time', each.times.map((at) => at * 1000), FieldType.time, 0),
      field(panel, each.name, each.values, FieldType.number, index, overridden(panel, 'byFrameRefID', each.refId, 'unit')),
    ],
  }));
  const from = dateTime(span.start * 1000), to = dateTime(span.end * 1000);
  return (
    <TimeSeries
      frames={frames}
      timeRange={{ from, to, raw: { from, to } }}
      timeZone="utc"
      structureRev={1}
      width={width}
      height={height}
      legend={panel.options.legend}
      options={{}}
      replaceVariables={(text) => text}
    />
  );
}

function Stat({ panel, series, width, height }) {
  const shown = series.map((each, index) => {
    const made = field(panel, each.name, each.values, FieldType.number, index, overridden(panel, 'byFrameRefID', each.refId, 'unit'));
    return { ...made.display(each.values[0]), title: series.length > 1 || panel.options.textMode !== 'auto' ? each.name : undefined };
  });
  return (
    <div style={{ display: 'flex', width, height }}>
      {shown.map((value, index) => (
        <BigValue
          key={index}
          theme={theme}
          value={value}
          width={width / shown.length}
          height={height}
          alignmentFactors={shown.length > 1 ? getDisplayValueAlignmentFactors(shown.map((display) => ({ display }))) : undefined}
          colorMode={BigValueColorMode.Value}
          graphMode={BigValueGraphMode.None}
          justifyMode={BigValueJustifyMode.Auto}
          textMode={panel.options.textMode !== 'auto' ? panel.options.textMode : shown.length > 1 ? BigValueTextMode.ValueAndName : BigValueTextMode.Value}
        />
      ))}
    </div>
  );
}

function Rows({ panel, columns, width, height }) {
  const fields = columns.map((each, index) => {
    const type = each.isText ? FieldType.string : FieldType.number;
    const made = field(panel, each.name, each.values, type, index, overridden(panel, 'byName', each.name, 'unit'));
    made.config.decimals = overridden(panel, 'byName', each.name, 'decimals') ?? made.config.decimals;
    made.display = getDisplayProcessor({ field: made, theme, timeZone: 'utc' });
    made.config.custom = { ...made.config.custom, align: 'auto' };
    return made;
  });
  const data = { fields, length: fields[0]?.values.length ?? 0 };
  return <Table data={data} width={width} height={height} timeRange={undefined} />;
}

function Panel({ panel }) {
  const { series, columns } = answers[panel.id];
  const { x, y, w, h } = panel.gridPos;
  const width = w * COLUMN - GAP, height = h * ROW - GAP;
  const filled = series.length > 0 || (columns?.[0]?.values.length ?? 0) > 0;
  const place = { position: 'absolute', left: x * COLUMN, top: TOP + y * ROW, width, height };
  return (
    <div style={place} data-panel={panel.title} data-state={filled ? 'ok' : 'nodata'}>
      <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => {
          const room = { panel, width: innerWidth, height: innerHeight };
          if (!filled) {
            return <div style={{ padding: 8, color: theme.colors.text.secondary, fontSize: 18 }}>{panel.fieldConfig.defaults.noValue}</div>;
          }
          if (panel.type === 'stat') {
            return <Stat {...room} series={series} />;
          }
          return panel.type === 'table' ? <Rows {...room} columns={columns} /> : <Graph {...room} series={series} />;
        }}
      </PanelChrome>
    </div>
  );
}

function Heading({ panel }) {
  const place = { position: 'absolute', left: 4, top: TOP + panel.gridPos.y * ROW + 6, fontSize: 16, fontWeight: 500 };
  return <div style={place}>{panel.title}</div>;
}

class Caught extends React.Component {
  state = { error: undefined };
  static getDerivedStateFromError(error) {
    return { error };
  }
  render() {
    const { title } = this.props.panel;
    return this.state.error ? <div data-panel={title} data-state={`error: ${this.state.error}`} /> : this.props.children;
  }
}

function Board() {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      <div style={{ position: 'absolute', left: 4, top: 10, fontSize: 22 }}>{board.title}</div>
      {board.panels.map((panel) => (
        <Caught key={panel.id} panel={panel}>
          {panel.type === 'row' ? <Heading panel={panel} /> : <Panel panel={panel} />}
        </Caught>
      ))}
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')).render(<Board />);
