// Grafana's components expect the package's default export, which esbuild would wrap once more.
export { Scrollbars as default, Scrollbars } from './node_modules/react-custom-scrollbars-2/lib/index.js';
